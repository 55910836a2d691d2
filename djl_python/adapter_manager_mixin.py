# SPDX-License-Identifier: Apache-2.0
"""LMI's management of LoRA adapters, for a service of the user's own that says how weights are loaded."""

import os
from abc import ABC, abstractmethod
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output

_NO_MEMORY = ("No free lora slots", "greater than the number of GPU LoRA slots")


class AdapterManagerMixin(ABC):
    """Registers, updates and unregisters adapters, as hooks that a server calls.

    Attributes:
        adapter_registry: the `Input` that each adapter was registered with, by the adapter's name.
    """

    def __init__(self) -> None:
        self.adapter_registry: dict[str, Input] = {}

    @abstractmethod
    async def add_lora(self, lora_name: str, lora_alias: str, lora_path: str) -> Any:
        """Loads weights from a folder; False means that they were not."""

    @abstractmethod
    async def remove_lora(self, lora_name: str, lora_alias: str) -> Any:
        """Removes weights."""

    @abstractmethod
    async def pin_lora(self, lora_name: str, lora_alias: str) -> Any:
        """Keeps weights from being evicted."""

    async def register_adapter(self, inputs: Input) -> Output:
        """Loads an adapter.

        Args:
            inputs: properties `name`, `src` (a folder) and optionally `alias`; content or properties `preload` (true
                unless told otherwise) and `pin`.

        Returns:
            200 with a message, or 424 with the reason as its message.

        Raises:
            MemoryError: there is no room for another adapter.
        """
        return await self._answered(self._register(inputs), f"Adapter {_alias(inputs)} registered")

    async def update_adapter(self, inputs: Input) -> Output:
        """Loads or pins an adapter that is registered; the same arguments and answers as `register_adapter`.

        Raises:
            MemoryError: there is no room for another adapter.
        """
        return await self._answered(self._update(inputs), f"Adapter {_alias(inputs)} updated")

    async def unregister_adapter(self, inputs: Input) -> Output:
        """Removes an adapter; where that fails it stays registered.

        Args:
            inputs: properties `name` and optionally `alias`.

        Returns:
            200 with a message, or 424 with the reason as its message.
        """
        return await self._answered(self._unregister(inputs), f"Adapter {_alias(inputs)} unregistered")

    async def _register(self, inputs: Input) -> None:
        src = str(inputs.get_property("src"))
        if not os.path.exists(src):
            raise ValueError(f"Only local LoRA models are supported. {src} is not a valid path")
        await self._load(inputs, src, "Can not set preload to false and pin to true")
        self.adapter_registry[_name(inputs)] = inputs

    async def _update(self, inputs: Input) -> None:
        known = self._known(inputs)
        src = inputs.get_property("src") or known.get_property("src")
        if src != known.get_property("src"):
            raise ValueError("Updating adapter path is not supported.")
        if _flag(known, "pin", False) and not _flag(inputs, "pin", False):
            raise ValueError("Unpinning an adapter is not supported.")
        await self._load(inputs, str(src), "Can not set load to false and pin to true")
        self.adapter_registry[_name(inputs)] = inputs

    async def _unregister(self, inputs: Input) -> None:
        self._known(inputs)
        await self.remove_lora(_name(inputs), _alias(inputs))
        del self.adapter_registry[_name(inputs)]

    async def _load(self, inputs: Input, src: str, contradiction: str) -> None:
        load, pin = _flag(inputs, "preload", True), _flag(inputs, "pin", False)
        if pin and not load:
            raise ValueError(contradiction)
        if load and await self.add_lora(_name(inputs), _alias(inputs), src) is False:
            raise RuntimeError(f"Failed to load adapter {_alias(inputs)}")
        if pin:
            await self.pin_lora(_name(inputs), _alias(inputs))

    def _known(self, inputs: Input) -> Input:
        if _name(inputs) not in self.adapter_registry:
            raise ValueError(f"Adapter {_alias(inputs)} not registered.")
        return self.adapter_registry[_name(inputs)]

    async def _answered(self, work: Any, success: str) -> Output:
        try:
            await work
        except MemoryError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            if any(sign in reason for sign in _NO_MEMORY):
                raise MemoryError(reason) from error
            return Output().error(reason, message=reason)
        return Output(message=success)


def _name(inputs: Input) -> str:
    return str(inputs.get_property("name"))


def _alias(inputs: Input) -> str:
    return str(inputs.get_property("alias") or inputs.get_property("name"))


def _flag(inputs: Input, name: str, default: bool) -> bool:
    value = inputs.get_as_string(name) if inputs.contains_key(name) else inputs.get_property(name)
    return default if value is None else str(value).lower() == "true"
