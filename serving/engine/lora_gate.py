# SPDX-License-Identifier: Apache-2.0
"""Which LoRA adapters requests may use. Part of `gate.py`.

The engine loads an adapter again that it had let go of for others, and ends when that fails. So it is handed none that
was not checked, and none whose files are no longer those that were.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import msgspec

from serving import metrics
from serving.engine.adapter_files import FILES
from serving.engine.lora_slots import LoraSlots
from serving.errors import AdapterRefused

_TRUSTED_S = 1.0
"""How long files that were looked at are taken for unchanged."""

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True, eq=False, weakref_slot=True)
class KnownLora:
    """An adapter that requests may use.

    Attributes:
        name: that users have for it.
        request: vLLM's, as the engine is to have it. Its path names the directory, and what is in it; its name is that
            of no other adapter that is in use.
        path: the directory.
        stamp: of the files when they were checked.
        seen_at: when the files were last looked at, on the monotonic clock.
        is_loaded: the engine took it.
    """

    name: str
    request: Any
    path: str
    stamp: Stamp
    seen_at: float
    is_loaded: bool = False


class LoraGate:
    """The adapters that requests may use, as vLLM's `LoRARequest`s.

    Args:
        check: reads a directory and raises `AdapterRefused` if it holds no adapter for this model.
        locate: the directory that a path means to the engine, which fetches a Hub id.
        add_lora: hands an adapter to the engine; raises `AdapterRefused` or `AdapterSlotsExhausted`.
        slots: counts how many are in use.
    """

    def __init__(
        self,
        check: Callable[[Path], None],
        locate: Callable[[str], str],
        add_lora: Callable[[Any], Awaitable[Any]],
        slots: LoraSlots,
    ):
        self.slots = slots
        self._check = check
        self._locate = locate
        self._add_lora = add_lora
        self._known: dict[int, KnownLora] = {}
        self._numbers: dict[str, int] = {}
        self._contents: dict[str, list[Stamp]] = {}
        self._in_use: WeakSet[KnownLora] = WeakSet()
        self._loading = asyncio.Lock()

    async def add(self, lora_request: Any) -> Any:
        """Loads an adapter, which requests may use from then on; returns what the engine says.

        Raises:
            AdapterRefused: its files are not what the engine can take, or the engine refused it.
            AdapterSlotsExhausted: there is no room for it.
        """
        with _counted_load():
            known = await self._read(lora_request)
            answer = await self._add_lora(known.request)
        known.is_loaded = True
        self._keep(known)
        return answer

    async def hold(self, lora_request: Any) -> None:
        """Has the engine take an adapter again that it may have let go of, with the files that were checked.

        Raises:
            AdapterRefused, AdapterSlotsExhausted: it cannot.
        """
        known = self.usable(lora_request)
        await self._add_lora(known.request)
        known.is_loaded = True

    async def offer(self, lora_request: Any) -> None:
        """Checks an adapter, which the first request for it loads.

        Raises:
            AdapterRefused: its files are not what the engine can take.
        """
        self._keep(await self._read(lora_request))

    def remove(self, lora_int_id: int) -> None:
        """No request may begin to use it any more."""
        known = self._known.pop(lora_int_id, None)
        if known is not None and self._numbers.get(known.name) == lora_int_id:
            del self._numbers[known.name]
            # A server may see any number of names come and go; the metrics have those that are there.
            metrics.ADAPTER_REQUESTS.remove(known.name)

    def usable(self, lora_request: Any) -> KnownLora:
        """The adapter; where it was replaced since the request was made, what has its name now.

        Raises:
            AdapterRefused: it is not there, or its files are no longer those that were checked.
        """
        number = lora_request.lora_int_id
        known = self._known.get(number) or self._known.get(self._numbers.get(lora_request.lora_name, 0))
        if known is None:
            raise AdapterRefused(f"adapter {lora_request.lora_name} was unloaded")
        if (now := time.monotonic()) > known.seen_at + _TRUSTED_S:
            self._look(known)
            known.seen_at = now
        return known

    def check_kept(self, known: KnownLora) -> None:
        """Refuses an adapter that was given up since `usable`.

        Raises:
            AdapterRefused: it was.
        """
        if self._known.get(known.request.lora_int_id) is not known:
            raise AdapterRefused(f"adapter {known.name} was unloaded")

    async def enter(self, known: KnownLora, user: object) -> None:
        """Waits until the engine may work on this adapter for `user`, and loads it if it was only offered.

        Raises:
            AdapterRefused, AdapterSlotsExhausted: it does not load, or its files have changed meanwhile.
        """
        if not known.is_loaded:
            async with self._loading:
                if not known.is_loaded:
                    with _counted_load():
                        await self._add_lora(known.request)
                    known.is_loaded = True
        waited = time.monotonic()
        await self.slots.acquire(known.request.lora_int_id, user)
        if time.monotonic() > waited + _TRUSTED_S:
            self._look(known)
        if self._known.get(known.request.lora_int_id) is known:
            metrics.ADAPTER_REQUESTS.labels(known.name).inc()

    def _keep(self, known: KnownLora) -> None:
        self._known[known.request.lora_int_id] = known
        self._numbers[known.name] = known.request.lora_int_id

    def _look(self, known: KnownLora) -> None:
        """Looks at the files again, which the engine may read at any time."""
        if stamp(known.request.lora_path) != known.stamp:
            raise AdapterRefused(
                f"the files of adapter {known.name} are gone or changed: {known.path}; "
                "unregister it and register it again"
            )

    async def _read(self, lora_request: Any) -> KnownLora:
        path, content = await asyncio.to_thread(self._checked, lora_request.lora_path)
        contents = self._contents.setdefault(path, [])
        if content not in contents:
            contents.append(content)
        # Another text for the same directory: the prefix cache, which goes by it, has nothing of the files before.
        text = path + "/." * contents.index(content)
        named = msgspec.structs.replace(lora_request, lora_name=self._free(lora_request.lora_name), lora_path=text)
        known = KnownLora(lora_request.lora_name, named, path, content, time.monotonic())
        self._in_use.add(known)
        return known

    def _free(self, name: str) -> str:
        """`name`, or one like it while requests still use an adapter of this name that is being replaced.

        vLLM takes two adapters of one name for the same, whatever their numbers, and a step with both ends the engine.
        """
        taken = {known.request.lora_name for known in self._in_use}
        others = (f"{name}#{number}" for number in itertools.count(2))
        return next(one for one in itertools.chain([name], others) if one not in taken)

    def _checked(self, path: str) -> tuple[str, Stamp]:
        path = self._locate(path)
        content = stamp(path)
        self._check(Path(path))
        return path, content


@contextmanager
def _counted_load() -> Iterator[None]:
    """The metrics of one load, which fails when this block raises."""
    began = time.perf_counter()
    try:
        yield
    except Exception:
        metrics.ADAPTER_LOADS.labels("failed").inc()
        raise
    metrics.ADAPTER_LOADS.labels("loaded").inc()
    metrics.ADAPTER_LOAD_SECONDS.observe(time.perf_counter() - began)


def stamp(path: str) -> Stamp:
    """Tells whether the files of an adapter are those that they were: inode, size and time of each."""
    return tuple(_file_stamp(os.path.join(path, name)) for name in FILES)


def _file_stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
