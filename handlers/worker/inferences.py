# SPDX-License-Identifier: Apache-2.0
"""Requests of the user's code to the server's own engine: the other direction of the socket. Used by `runner.py`."""

import asyncio
import itertools
from collections.abc import Callable
from functools import partial

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
        return Response(
            opened.status, opened.headers, _Chunks(self._wire, self._chunks[number], partial(self._forget, number))
        )

    def receive(self, message: InferenceOpened | Chunk) -> None:
        """Hands a message to the request it belongs to, if that still waits."""
        if isinstance(message, Chunk):
            if (queue := self._chunks.get(message.id)) is not None:
                queue.put_nowait(message)
        elif (future := self._opening.get(message.id)) is not None and not future.done():
            future.set_result(message)

    def _forget(self, number: int, is_over: bool = False) -> None:
        if self._chunks.pop(number, None) is not None and not is_over:
            self._wire.send(InferenceCancel(number))
        self._opening.pop(number, None)


class _Chunks:
    """The body of an answer; dropped before its end, it ends the request.

    A class, because a generator that is never started never runs its `finally`.
    """

    def __init__(self, wire: Wire, chunks: asyncio.Queue[Chunk], forget: Callable[..., None]):
        self._wire = wire
        self._chunks = chunks
        self._forget = forget
        self._num_taken = 0
        self._is_over = False

    def __aiter__(self) -> "_Chunks":
        return self

    async def __anext__(self) -> bytes:
        while not self._is_over:
            chunk = await self._chunks.get()
            self._num_taken += 1
            if chunk.is_last:
                self._is_over = True
                self._forget(is_over=True)
            elif self._num_taken == WINDOW // 2:
                self._wire.send(InferenceCredit(chunk.id, self._num_taken))
                self._num_taken = 0
            if chunk.data:
                return chunk.data
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nobody wants the rest."""
        self._is_over = True
        self._forget()

    def __del__(self) -> None:
        self._forget()
