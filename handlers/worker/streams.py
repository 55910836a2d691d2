# SPDX-License-Identifier: Apache-2.0
"""One streamed answer on its way from the user's generator to the server, with its window. Used by `runner.py`."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from handlers.worker import answers
from handlers.worker.answers import Piece
from handlers.worker.failures import failure
from handlers.worker.protocol import WINDOW, Chunk, Failed, Opened, Reply
from handlers.worker.wire import Wire


class OutgoingStream:
    """Sends the pieces of one answer; status and headers go with the first piece that holds bytes.

    `send` is called by one thread, the loop's or another.

    Attributes:
        is_open: its first bytes are sent.
        is_over: the answer has its end.
        finalizer: what the last `Output` that had such a wish wants to have done once the answer was delivered.
    """

    def __init__(self, call_id: int, result: Any, is_strict: bool, wire: Wire):
        self._id = call_id
        self._result = result
        self._is_strict = is_strict
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._properties: dict[str, str] = {}
        self._is_stopped = False
        self._room = WINDOW
        self._changed = threading.Condition()
        self._waiter: asyncio.Future[None] | None = None
        self.is_open = False
        self.is_over = False
        self.finalizer: Callable[[], Any] | None = answers.finalizer(result)

    @property
    def is_full(self) -> bool:
        """As many chunks are on their way as may be."""
        return self._room <= 0

    def send(self, item: Any) -> bool:
        """Sends one item; false when nothing may follow it.

        Raises:
            InvalidReturn: the item is no piece of an answer.
        """
        piece = answers.piece(item, self._result, self._is_strict)
        self.finalizer = answers.finalizer(item) or self.finalizer
        if not self.is_open:
            return self._open(piece)
        if piece.data or piece.is_last:
            self._chunk(piece.data, piece.is_last)
        return not piece.is_last

    def fail(self, error: Exception) -> None:
        """The generator raised: an error of its own before the first byte, the last chunk after it."""
        if self.is_over:
            return
        told: Failed = failure(self._id, error)
        if self.is_open:
            self._chunk(answers.error_body(told.text, 507 if told.reason == "memory" else 424) + b"\n", True)
        else:
            self.is_over = True
            self._wire.send(told)

    def end(self) -> None:
        """The generator came to its end; what it left open is closed."""
        if self._is_stopped or self.is_over:
            return
        if self.is_open:
            self._chunk(b"", True)
        else:
            self._open(Piece(b"", is_last=True))

    def stop(self) -> None:
        """Nobody wants the rest."""
        self._is_stopped = True
        self.add_room(WINDOW)

    def add_room(self, count: int) -> None:
        """The server took so many chunks; called on the loop's thread."""
        with self._changed:
            self._room += count
            self._changed.notify_all()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def room(self) -> None:
        """Waits, on the loop, until another chunk may be sent."""
        while self._room <= 0:
            self._waiter = self._loop.create_future()
            await self._waiter

    def wait_for_room(self) -> bool:
        """Waits, on another thread, until another chunk may be sent; false when nobody wants it."""
        with self._changed:
            while self._room <= 0 and not self._is_stopped:
                self._changed.wait()
        return not self._is_stopped

    def _open(self, piece: Piece) -> bool:
        """Sends the first piece that says anything. One that is an error alone is no stream."""
        self._properties.update(piece.properties or {})
        if piece.is_error:
            self.is_over = True
            self._wire.send(
                Reply(self._id, piece.status, piece.message, dict(piece.properties or {}), piece.data, False, [])
            )
            return False
        if piece.data or piece.is_last:
            self.is_open, self.is_over = True, piece.is_last
            self._wire.send(Opened(self._id, piece.status, self._properties, piece.data, piece.is_last))
        return not piece.is_last

    def _chunk(self, data: bytes, is_last: bool) -> None:
        with self._changed:
            self._room -= 1
        self.is_over = is_last
        self._wire.send(Chunk(self._id, data, is_last))
