# SPDX-License-Identifier: Apache-2.0
"""Requests of the user's code to the server's own engine: the other direction of the socket. Used by `runner.py`."""

import asyncio
import itertools
from collections.abc import AsyncIterator

from djl_python._bridge import Response
from handlers.worker.protocol import (
    WINDOW,
    Chunk,
    Inference,
    InferenceCancel,
    InferenceCredit,
    InferenceOpened,
)
from handlers.worker.wire import Wire, request_id


class Inferences:
    """The bridge that `djl_python.engine` and LMI's service object go over; used on the worker's loop."""

    def __init__(self, wire: Wire):
        self._wire = wire
        self._ids = itertools.count(1)
        self._opening: dict[int, asyncio.Future[InferenceOpened]] = {}
        self._chunks: dict[int, asyncio.Queue[Chunk]] = {}

    async def request(self, body: bytes, headers: dict[str, str]) -> Response:
        """The default handler's answer to this body, with its error answers as they are."""
        number = next(self._ids)
        self._opening[number] = asyncio.get_running_loop().create_future()
        self._chunks[number] = asyncio.Queue()
        self._wire.send(Inference(number, body, headers, request_id.get()))
        try:
            opened = await self._opening[number]
        except asyncio.CancelledError:
            self._forget(number)
            raise
        return Response(opened.status, opened.headers, self._read(number))

    def receive(self, message: InferenceOpened | Chunk) -> None:
        """Hands a message to the request it belongs to, if that still waits."""
        if isinstance(message, Chunk):
            if (queue := self._chunks.get(message.id)) is not None:
                queue.put_nowait(message)
        elif (future := self._opening.get(message.id)) is not None and not future.done():
            future.set_result(message)

    async def _read(self, number: int) -> AsyncIterator[bytes]:
        taken = 0
        is_last = False
        try:
            while not is_last:
                chunk = await self._chunks[number].get()
                is_last, taken = chunk.is_last, taken + 1
                if taken == WINDOW // 2 and not is_last:
                    self._wire.send(InferenceCredit(number, taken))
                    taken = 0
                if chunk.data:
                    yield chunk.data
        finally:
            self._forget(number, is_over=is_last)

    def _forget(self, number: int, is_over: bool = False) -> None:
        del self._opening[number], self._chunks[number]
        if not is_over:
            self._wire.send(InferenceCancel(number))
