# SPDX-License-Identifier: Apache-2.0
"""The LoRA adapters of one server: who they are, where they come from, in which state; LMI's rules for changing that.

Changes come from `serving/routers/adapters.py` one at a time, and are recorded only once the engine, or the user's
hook, agreed. What the engine has loaded is the engine's to say; adapters that came past this registry, from
`--lora-modules` or vLLM's plug-ins, are listed too.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handlers.adapter_backends import AdapterBackend
from handlers.adapter_sources import AdapterSources
from serving.errors import (
    AdapterExists,
    AdapterNotRegistered,
    AdapterRefused,
    BadParameter,
    ConfigError,
    Problem,
    ServingError,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter as it was registered.

    Attributes:
        name: as requests name it.
        src: where it comes from, as given.
        directory: where its files are.
        preload: it is loaded; otherwise the first request that names it loads it.
        pin: it keeps its slot in the engine.
        failure: why it cannot be served; empty if it can.
        has_code: it brings formatters of its own.
        is_3d_weight: as in `Loras.load`.
    """

    name: str
    src: str
    directory: str
    preload: bool = True
    pin: bool = False
    failure: str = ""
    has_code: bool = False
    is_3d_weight: bool = False

    def described(self) -> dict[str, Any]:
        """LMI's words for it."""
        shown = {"name": self.name, "src": self.src, "preload": self.preload, "pin": self.pin}
        shown |= {"has_custom_code": "true"} if self.has_code else {}
        return shown | ({"failed": self.failure} if self.failure else {})


@dataclass(frozen=True, slots=True)
class Change:
    """What a management call asks for.

    Attributes:
        name: of the adapter.
        src: where it comes from, where that is given.
        preload, pin: as in `Adapter`; None where the call does not say.
        is_3d_weight: as in `Loras.load`.
        alias: stands for the name in messages.
        parameters: every parameter of the call, for the user's hooks.
    """

    name: str
    src: str | None = None
    preload: bool | None = None
    pin: bool | None = None
    is_3d_weight: bool = False
    alias: str = ""
    parameters: Sequence[tuple[str, str]] = ()

    @property
    def shown(self) -> str:
        """The name in messages."""
        return self.alias or self.name


class AdapterRegistry:
    """The adapters of one server.

    Args:
        backend: acts on a change.
        sources: finds their files.
        allows_code: they may bring formatters of their own.
    """

    def __init__(self, backend: AdapterBackend, sources: AdapterSources, allows_code: bool = True):
        self._backend = backend
        self._sources = sources
        self._allows_code = allows_code
        self._adapters: dict[str, Adapter] = {}
        self._changing = asyncio.Lock()

    async def load_all(self, directories: Mapping[str, Path], is_strict: bool = False) -> None:
        """Registers what stands beside the model at start; a broken one is listed with its reason.

        Raises:
            ConfigError: `is_strict`, and some are broken.
        """
        problems = []
        for name, directory in directories.items():
            adapter = Adapter(name, str(directory), str(directory), has_code=_has_code(directory))
            try:
                self._check_code(adapter)
                await self._backend.load(Change(name, str(directory)), adapter)
            except ServingError as error:
                logger.error("adapter %s is not available: %s", name, error)
                adapter = replace(adapter, failure=str(error))
                text = f"the adapter {name} does not load: {error}"
                problems.append(Problem("VALIDATION", text, remedy="mend it, or leave out option.strict"))
            self._adapters[name] = adapter
        if problems and is_strict:
            raise ConfigError(problems)

    def all(self) -> list[Adapter]:
        """Every adapter, by name; those that came past this registry included."""
        loaded = self._backend.loaded()
        known = {
            name: adapter
            for name, adapter in self._adapters.items()
            if loaded is None or adapter.failure or name in loaded
        }
        others = {name: Adapter(name, src, src) for name, src in (loaded or {}).items() if name not in known}
        return [adapter for _, adapter in sorted((known | others).items())]

    def describe(self, name: str, shown: str = "") -> Adapter:
        """The adapter of this name.

        Raises:
            AdapterNotRegistered: there is none.
        """
        for adapter in self.all():
            if adapter.name == name:
                return adapter
        raise AdapterNotRegistered(shown or name)

    async def register(self, change: Change, replace_known: bool = False) -> str:
        """Adds an adapter; returns what to tell the client. One from elsewhere is fetched first.

        Raises:
            AdapterExists: the name is taken, and not to be replaced.
            AdapterRefused, AdapterSlotsExhausted, BadParameter: nothing has changed.
        """
        self._check_name(change, replace_known)
        src, directory = await self._sources.find(change.src or "")
        async with self._changing:
            self._check_name(change, replace_known)
            adapter = Adapter(
                change.name,
                src,
                directory,
                change.preload is not False,
                change.pin is True,
                has_code=_has_code(directory),
                is_3d_weight=change.is_3d_weight,
            )
            self._check_code(adapter)
            if adapter.pin and not adapter.preload:
                raise AdapterRefused("Can not set preload to false and pin to true")
            told = await self._backend.load(replace(change, src=directory), adapter)
            self._adapters[change.name] = adapter
            return told or f"Adapter {change.shown} registered"

    async def update(self, change: Change) -> str:
        """Changes `preload` or `pin`; returns what to tell the client.

        Raises:
            AdapterNotRegistered, AdapterRefused, AdapterSlotsExhausted: nothing has changed.
        """
        async with self._changing:
            before = self.describe(change.name, change.shown)
            if change.src is not None and not self._sources.is_same(change.src, before.src):
                raise AdapterRefused("Updating adapter path is not supported.")
            after = replace(
                before,
                preload=before.preload if change.preload is None else change.preload,
                pin=before.pin if change.pin is None else change.pin,
                failure="",
            )
            if before.pin and not after.pin:
                raise AdapterRefused(
                    "Unpinning adapter is not supported. To unpin it, unregister the adapter and re-register it."
                )
            if after.pin and not after.preload:
                raise AdapterRefused("Can not set load to false and pin to true")
            told = await self._backend.update(replace(change, src=before.directory), before, after)
            self._adapters[change.name] = after
            return told or f"Adapter {change.shown} updated"

    async def unregister(self, change: Change) -> str:
        """Removes an adapter, its weights first; returns what to tell the client.

        Raises:
            AdapterNotRegistered: there is none of this name.
            AdapterRefused: it cannot be removed; nothing has changed.
        """
        async with self._changing:
            adapter = self.describe(change.name, change.shown)
            told = await self._backend.unload(change, adapter)
            self._adapters.pop(change.name, None)
            return told or f"Adapter {change.shown} unregistered"

    def _check_code(self, adapter: Adapter) -> None:
        if adapter.has_code and not self._allows_code:
            raise AdapterRefused(f"{adapter.name} has a model.py, which DISALLOW_CUSTOM_INFERENCE_SCRIPTS forbids")

    def _check_name(self, change: Change, replace_known: bool) -> None:
        if not change.name.strip() or not change.name.isprintable() or "/" in change.name:
            raise BadParameter(f"The parameter name is {change.name!r}; it must be a word without slashes")
        if not replace_known and any(one.name == change.name and not one.failure for one in self.all()):
            raise AdapterExists(change.shown)


def _has_code(directory: str | Path) -> bool:
    return os.path.isfile(os.path.join(directory, "model.py"))
