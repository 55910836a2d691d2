# SPDX-License-Identifier: Apache-2.0
"""Which LoRA adapters requests may use. Part of `gate.py`.

The engine loads an adapter again that it had let go of for others, and ends when that fails. So it is handed none that
was not checked, and none whose files are no longer those that were.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from serving import metrics
from serving.engine.adapter_files import FILES
from serving.engine.lora_slots import LoraSlots
from serving.errors import AdapterRefused

_TRUSTED_S = 1.0
"""How long files that were looked at are taken for unchanged."""

_Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Known:
    """An adapter that requests may use.

    Attributes:
        request: vLLM's, as the engine is to have it. Its path names the directory, and what is in it.
        stamp: of the files when they were checked.
        seen_at: when the files were last looked at, on the monotonic clock.
        is_loaded: the engine took it.
    """

    request: Any
    stamp: _Stamp
    seen_at: float
    is_loaded: bool = False


class LoraGate:
    """The adapters that requests may use, as vLLM's `LoRARequest`s.

    Args:
        check: reads a directory and raises `AdapterRefused` if it holds no adapter for this model.
        add_lora: hands an adapter to the engine; raises `AdapterRefused` or `AdapterSlotsExhausted`.
        slots: counts how many are in use.
    """

    def __init__(self, check: Callable[[Path], None], add_lora: Callable[[Any], Awaitable[Any]], slots: LoraSlots):
        self.slots = slots
        self._check = check
        self._add_lora = add_lora
        self._known: dict[int, _Known] = {}
        self._contents: dict[str, list[_Stamp]] = {}
        self._loading = asyncio.Lock()

    async def add(self, lora_request: Any) -> Any:
        """Loads an adapter, which requests may use from then on; returns what the engine says.

        Raises:
            AdapterRefused: its files are not what the engine can take, or the engine refused it.
            AdapterSlotsExhausted: there is no room for it.
        """
        known = await self._read(lora_request)
        answer = await self._add_lora(known.request)
        known.is_loaded = True
        self._known[lora_request.lora_int_id] = known
        return answer

    async def offer(self, lora_request: Any) -> None:
        """Checks an adapter, which the first request for it loads.

        Raises:
            AdapterRefused: its files are not what the engine can take.
        """
        self._known[lora_request.lora_int_id] = await self._read(lora_request)

    def remove(self, lora_int_id: int) -> None:
        """No request may use it any more."""
        self._known.pop(lora_int_id, None)

    def usable(self, lora_request: Any) -> Any:
        """The request as the engine is to have it.

        Raises:
            AdapterRefused: it is not there, or its files are no longer those that were checked.
        """
        known = self._known.get(lora_request.lora_int_id)
        if known is None:
            raise AdapterRefused(f"adapter {lora_request.lora_name} was unloaded")
        if (now := time.monotonic()) > known.seen_at + _TRUSTED_S:
            if _stamp(lora_request.lora_path) != known.stamp:
                raise AdapterRefused(
                    f"the files of adapter {lora_request.lora_name} are gone or changed: {lora_request.lora_path}; "
                    "unregister it and register it again"
                )
            known.seen_at = now
        return known.request

    async def enter(self, lora_int_id: int, user: object) -> None:
        """Waits until the engine may work on this adapter for `user`, and loads it if it was only offered.

        Raises:
            AdapterRefused, AdapterSlotsExhausted: it was given up since `usable`, or does not load.
        """
        known = self._known.get(lora_int_id)
        if known is None:
            raise AdapterRefused("the adapter was unloaded")
        metrics.ADAPTER_REQUESTS.labels(known.request.lora_name).inc()
        if not known.is_loaded:
            async with self._loading:
                if not known.is_loaded:
                    await self._add_lora(known.request)
                    known.is_loaded = True
        await self.slots.acquire(lora_int_id, user)

    async def _read(self, lora_request: Any) -> _Known:
        path = lora_request.lora_path
        stamp = await asyncio.to_thread(self._checked, path)
        contents = self._contents.setdefault(path, [])
        if stamp not in contents:
            contents.append(stamp)
        # Another text for the same directory: the prefix cache, which goes by it, has nothing of the files before.
        named = msgspec.structs.replace(lora_request, lora_path=path + "/." * contents.index(stamp))
        return _Known(named, stamp, time.monotonic())

    def _checked(self, path: str) -> _Stamp:
        stamp = _stamp(path)
        self._check(Path(path))
        return stamp


def _stamp(path: str) -> _Stamp:
    return tuple(_file_stamp(os.path.join(path, name)) for name in FILES)


def _file_stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
