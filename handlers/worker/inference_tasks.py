# SPDX-License-Identifier: Apache-2.0
"""A worker's own requests to the default handler, each a task of ours. Used by `supervisor.py`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from handlers.base import InferenceRequest, InferenceResponse
from handlers.worker.answers import error_body
from handlers.worker.process import WorkerProcess
from handlers.worker.protocol import WINDOW, Chunk, Inference, InferenceCancel, InferenceCredit, InferenceOpened
from serving.errors import ServingError

logger = logging.getLogger(__name__)

Infer = Callable[[InferenceRequest], Awaitable[InferenceResponse]]
"""Answers as the default handler does."""


class InferenceTasks:
    """The worker's own requests to the default handler, each a task of ours."""

    def __init__(self, infer: Infer):
        self._infer = infer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._room: dict[int, asyncio.Semaphore] = {}
        self.worker: WorkerProcess

    def receive(self, message: Inference | InferenceCancel | InferenceCredit) -> None:
        """Starts, ends or goes on with one."""
        if isinstance(message, Inference):
            self._room[message.id] = asyncio.Semaphore(WINDOW)
            task = asyncio.get_running_loop().create_task(self._run(message))
            self._tasks[message.id] = task
        elif isinstance(message, InferenceCancel):
            if (running := self._tasks.get(message.id)) is not None:
                running.cancel()
        elif (room := self._room.get(message.id)) is not None:
            for _ in range(message.count):
                room.release()

    def cancel_all(self) -> None:
        """Nobody waits for any of them any more."""
        for task in self._tasks.values():
            task.cancel()

    async def _run(self, message: Inference) -> None:
        send, number = self.worker.send, message.id
        is_open = False
        try:
            response = await self._infer(InferenceRequest(message.body, message.headers, message.request_id))
            headers = {"content-type": response.media_type, **response.headers}
            if isinstance(response.body, bytes):
                send(InferenceOpened(number, response.status, headers))
                send(Chunk(number, response.body, True))
                return
            async with aclosing(response.body) as body:
                async for data in body:
                    if not is_open:
                        send(InferenceOpened(number, response.status, headers))
                        is_open = True
                    await self._room[number].acquire()
                    send(Chunk(number, data, False))
            send(Chunk(number, b"", True))
        except Exception as error:
            if not isinstance(error, ServingError):
                logger.exception("a handler's request to the engine failed")
                error = ServingError("internal error; the server's log has the details")
            if not is_open:
                send(InferenceOpened(number, int(error.http_status), {"content-type": "application/json"}))
            send(Chunk(number, error_body(str(error), int(error.http_status)) + b"\n", True))
        finally:
            del self._tasks[number], self._room[number]
