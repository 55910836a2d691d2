# SPDX-License-Identifier: Apache-2.0
"""Who acts when adapters change: the engine with the user's formatters, or the hooks of a user's handler.

As in LMI the hooks alone act where the handler is the entry point itself. Where LMI's service wraps it, the engine acts
and a hook is asked afterwards; its refusal takes the change back.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from handlers.user_formatters import UserFormatters
from serving.engine.base import Engine
from serving.errors import AdapterRefused, PayloadError, ServingError

if TYPE_CHECKING:
    from handlers.adapters import Adapter, Change


class Hooks(Protocol):
    """The adapter hooks of a user's handler."""

    def has_hook(self, hook: str) -> bool:
        """The user's code defines it."""
        ...

    async def call_hook(self, hook: str, change: "Change") -> str:
        """Calls it; returns the message of its answer.

        Raises:
            AdapterRefused, AdapterSlotsExhausted: it refused, or is not there.
        """
        ...


class AdapterBackend(Protocol):
    """Acts on changes; each method returns what to tell the client, or an empty text for LMI's own words."""

    def loaded(self) -> Mapping[str, str] | None:
        """Name to directory of every adapter that requests may name; None where nobody keeps count."""
        ...

    async def load(self, change: "Change", adapter: "Adapter") -> str:
        """Takes a new adapter up."""
        ...

    async def update(self, change: "Change", before: "Adapter", after: "Adapter") -> str:
        """Loads, unloads or pins a known one."""
        ...

    async def unload(self, change: "Change", adapter: "Adapter") -> str:
        """Gives one up."""
        ...


class EngineBackend:
    """The engine, the adapters' own formatters, and a wrapped handler's hooks after both.

    Args:
        engine: has the weights.
        formatters: have the adapters' code.
        hooks: the user's; None without a handler.
    """

    def __init__(self, engine: Engine, formatters: UserFormatters, hooks: Hooks | None):
        self._engine = engine
        self._formatters = formatters
        self._hooks = hooks

    def loaded(self) -> Mapping[str, str]:
        """As the engine says."""
        return self._engine.loras.sources

    async def load(self, change: "Change", adapter: "Adapter") -> str:
        """Code first, then weights, then the pin, then the hook; what fails takes back what went before.

        Where it takes the place of another one, the hook is asked first: there is no way back to that one.
        """
        before = self.loaded().get(adapter.name)
        told = await self._asked("register_adapter", change) if before is not None else ""
        await self._load_code(adapter.name, adapter.directory)
        try:
            await self._load_weights(adapter)
            return told or (await self._asked("register_adapter", change) if before is None else "")
        except BaseException:
            if before is not None:
                await self._load_code(adapter.name, before)
            else:
                await self._engine.loras.unload(adapter.name)
                self._formatters.remove_adapter(adapter.name)
            raise

    async def update(self, change: "Change", before: "Adapter", after: "Adapter") -> str:
        """Asks the hook, then loads or unloads the weights where `preload` changes, and pins where `pin` does."""
        loras, directory = self._engine.loras, Path(after.directory)
        told = await self._asked("update_adapter", change)
        if before.preload and not after.preload:
            await loras.offer(after.name, directory, after.is_3d_weight)
        elif after.preload and (not before.preload or before.failure):
            await loras.load(after.name, directory, after.is_3d_weight)
        if after.pin and not before.pin:
            try:
                await loras.pin(after.name)
            except ServingError:
                if not before.preload:
                    await loras.offer(after.name, directory, after.is_3d_weight)
                raise
        return told

    async def unload(self, change: "Change", adapter: "Adapter") -> str:
        """Weights first, then the code."""
        told = await self._asked("unregister_adapter", change)
        await self._engine.loras.unload(adapter.name)
        self._formatters.remove_adapter(adapter.name)
        return told

    async def _load_code(self, name: str, directory: str) -> None:
        try:
            await asyncio.to_thread(self._formatters.add_adapter, name, Path(directory))
        except PayloadError as error:
            raise AdapterRefused(str(error)) from None

    async def _load_weights(self, adapter: "Adapter") -> None:
        loras, directory = self._engine.loras, Path(adapter.directory)
        if not adapter.preload:
            await loras.offer(adapter.name, directory, adapter.is_3d_weight)
            return
        await loras.load(adapter.name, directory, adapter.is_3d_weight)
        if adapter.pin:
            try:
                await loras.pin(adapter.name)
            except ServingError:
                with suppress(ServingError):
                    await loras.unload(adapter.name)
                raise

    async def _asked(self, hook: str, change: "Change") -> str:
        if self._hooks is None or not self._hooks.has_hook(hook):
            return ""
        return await self._hooks.call_hook(hook, change)


class HookBackend:
    """The hooks of a handler that is the entry point itself: they know what an adapter is."""

    def __init__(self, hooks: Hooks):
        self._hooks = hooks

    def loaded(self) -> None:
        """Nobody keeps count but the registry."""

    async def load(self, change: "Change", adapter: "Adapter") -> str:
        """Asks `register_adapter`."""
        return await self._hooks.call_hook("register_adapter", change)

    async def update(self, change: "Change", before: "Adapter", after: "Adapter") -> str:
        """Asks `update_adapter`."""
        return await self._hooks.call_hook("update_adapter", change)

    async def unload(self, change: "Change", adapter: "Adapter") -> str:
        """Asks `unregister_adapter`."""
        return await self._hooks.call_hook("unregister_adapter", change)
