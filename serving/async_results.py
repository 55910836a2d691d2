# SPDX-License-Identifier: Apache-2.0
"""Answers that clients fetch later, as LMI's asynchronous results: in memory, within bounds of number, bytes and time.

One store per server, made by `assembly.py`, filled and read by `serving/routers/polling.py`. It knows no requests.
"""

import asyncio
import sys
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.config.options import ServerSettings
from serving.errors import ResultsFull

_SLOT_BYTES = 8
"""What a list takes for each of its items."""


@dataclass(slots=True, eq=False)
class Result:
    """One answer, as far as it has come.

    Attributes:
        token: names it; nobody can guess it.
        status: the answer's; known once there is a piece, or all of them.
        headers: the answer's, as ASGI has them.
        pieces: the body, one item for each write.
        is_complete: nothing will be added.
        num_bytes: of memory that the pieces take.
        is_cut: it became too long; what is added now is how it says so.
        used_at: when it was finished or last asked for, in the event loop's time.
    """

    token: str
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()
    pieces: list[bytes] = field(default_factory=list)
    is_complete: bool = False
    num_bytes: int = 0
    is_cut: bool = False
    used_at: float = 0.0


class AsyncResults:
    """The answers of one server that are fetched later.

    Whenever room is needed the finished one that nobody asked for longest goes; an unfinished one never does.
    """

    def __init__(self, settings: ServerSettings):
        self._capacity = settings.memory_cache_capacity
        self._ttl_s = settings.memory_cache_ttl
        self._max_bytes = settings.memory_cache_max_bytes
        self._unfinished: dict[str, Result] = {}
        self._finished: OrderedDict[str, Result] = OrderedDict()
        self._expiry: asyncio.TimerHandle | None = None
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._unfinished) + len(self._finished)

    def create(self) -> Result:
        """An answer that is yet to be made.

        Raises:
            ResultsFull: as many are being made as may be kept.
        """
        if len(self._unfinished) >= self._capacity:
            raise ResultsFull(
                f"{self._capacity} asynchronous results are unfinished; memory_cache_capacity bounds them"
            )
        if len(self) >= self._capacity:
            self._drop_oldest()
        result = Result(str(uuid.uuid4()))
        self._unfinished[result.token] = result
        return result

    def get(self, token: str) -> Result | None:
        """The answer of this name, which from now on is the last that was asked for; None where there is none."""
        if (result := self._finished.get(token)) is not None:
            result.used_at = asyncio.get_running_loop().time()
            self._finished.move_to_end(token)
            return result
        return self._unfinished.get(token)

    def append(self, result: Result, piece: bytes) -> None:
        """Adds to an answer.

        Raises:
            ResultsFull: once, where there is no memory for it; how the answer ends after that is kept all the same.
        """
        num_bytes = sys.getsizeof(piece) + _SLOT_BYTES
        if self.num_bytes + num_bytes > self._max_bytes:
            self._make_room(num_bytes)
        if self.num_bytes + num_bytes > self._max_bytes and not result.is_cut:
            result.is_cut = True
            raise ResultsFull("there is no memory for this asynchronous result; memory_cache_max_bytes bounds it")
        result.pieces.append(piece)
        result.num_bytes += num_bytes
        self.num_bytes += num_bytes

    def _make_room(self, num_bytes: int) -> None:
        """Drops finished ones, where that helps."""
        unfinished = sum(one.num_bytes for one in self._unfinished.values())
        while unfinished + num_bytes <= self._max_bytes < self.num_bytes + num_bytes:
            self._drop_oldest()

    def close(self, result: Result) -> None:
        """Nobody works on this answer any more: from now on it may expire, or is forgotten if it is not complete."""
        del self._unfinished[result.token]
        if not result.is_complete:
            self.num_bytes -= result.num_bytes
            return
        loop = asyncio.get_running_loop()
        result.used_at = loop.time()
        self._finished[result.token] = result
        if self._expiry is None:
            self._expiry = loop.call_later(self._ttl_s, self._expire)

    def _expire(self) -> None:
        """Drops what nobody asked for in time, and comes back for the next one."""
        loop = asyncio.get_running_loop()
        while self._finished and self._oldest.used_at + self._ttl_s <= loop.time():
            self._drop_oldest()
        due = self._oldest.used_at + self._ttl_s if self._finished else None
        self._expiry = loop.call_at(due, self._expire) if due is not None else None

    @property
    def _oldest(self) -> Result:
        """The finished one that nobody asked for longest."""
        return next(iter(self._finished.values()))

    def _drop_oldest(self) -> None:
        _, result = self._finished.popitem(last=False)
        self.num_bytes -= result.num_bytes
