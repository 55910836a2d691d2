# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in vLLM's engine, behind the `Loras` protocol. Part of `vllm_engine.py`, which makes it.

vLLM's own table of adapters (`lora_requests`) says which ones requests may name, on every route. What they do to the
engine passes the gate.
"""

import re
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.lora.utils import get_adapter_absolute_path
from vllm.v1.engine.exceptions import EngineDeadError

from serving.engine import adapter_files
from serving.engine.gate import EngineGate
from serving.engine.lora_gate import LoraGate
from serving.engine.lora_slots import LoraSlots
from serving.errors import AdapterRefused, AdapterSlotsExhausted, EngineDead, ServingError

_WORKER_ERROR = re.compile(r"Worker failed with error '(.*)', please check", re.DOTALL)
_NO_SLOTS = ("No free lora slots", "greater than the number of GPU LoRA slots", "All items are pinned")


def lora_gate(client: Any, args: Namespace) -> LoraGate:
    """What the gate is to know of adapters, before the first one is loaded."""
    checker = adapter_files.Checker(args.max_lora_rank, Path(client.model_config.model))
    return LoraGate(checker, get_adapter_absolute_path, partial(_add, client), LoraSlots(args.max_loras))


class VllmLoras:
    """The adapters of one engine.

    Args:
        models: vLLM's table of models and adapters.
        client: vLLM's engine client.
        gate: around it; knows which requests are under way.
    """

    def __init__(self, models: Any, client: Any, gate: EngineGate):
        self._models = models
        self._client = client
        self._gate = gate

    @property
    def sources(self) -> Mapping[str, str]:
        """As `Loras.sources`."""
        return {name: request.lora_path for name, request in self._models.lora_requests.items()}

    def request(self, name: str) -> LoRARequest:
        """What the engine knows an adapter by, for requests that do not come through a route.

        Raises:
            KeyError: there is none of that name.
        """
        return self._models.lora_requests[name]

    async def load(self, name: str, path: Path, is_3d_weight: bool = False) -> None:
        """As `Loras.load`."""
        request = self._request(name, path, is_3d_weight)
        await self._gate.add_lora(request)
        await self._replace(request)

    async def offer(self, name: str, path: Path, is_3d_weight: bool = False) -> None:
        """As `Loras.offer`."""
        request = self._request(name, path, is_3d_weight)
        await self._gate.loras.offer(request)
        await self._replace(request)

    async def unload(self, name: str) -> None:
        """As `Loras.unload`."""
        if (known := self._models.lora_requests.pop(name, None)) is not None:
            await self._retire(known)

    async def pin(self, name: str) -> None:
        """As `Loras.pin`."""
        request = self._models.lora_requests.get(name)
        if request is None:
            raise AdapterRefused(f"Adapter {name} not registered.")
        number, slots = request.lora_int_id, self._gate.loras.slots
        if slots.is_pinned(number):
            return
        needs_other = any(
            not slots.is_pinned(other.lora_int_id)
            for other in self._models.lora_requests.values()
            if other is not request
        )
        if slots.num_free < (2 if needs_other else 1):
            raise AdapterSlotsExhausted(
                f"No free lora slots: {name} cannot be pinned beside the other pinned ones without leaving none for "
                "those that are not. Raise option.max_loras."
            )
        await slots.pin(number)
        try:
            # The engine may have let go of it for others; only what it holds can be pinned.
            await self._gate.loras.hold(request)
            await _translated(self._client.pin_lora(number))
        except BaseException:
            slots.unpin(number)
            raise

    def _request(self, name: str, path: Path, is_3d_weight: bool) -> LoRARequest:
        if self._models.is_base_model(name):
            raise AdapterRefused(f"{name} is a name of the base model; choose another one.")
        number = self._models.lora_id_counter.inc(1)
        return LoRARequest(name, number, str(path), is_3d_lora_weight=is_3d_weight)

    async def _replace(self, request: LoRARequest) -> None:
        before = self._models.lora_requests.get(request.lora_name)
        self._models.lora_requests[request.lora_name] = request
        if before is not None:
            await self._retire(before)

    async def _retire(self, request: LoRARequest) -> None:
        """Takes an adapter out of the engine, which a request under way would have load it again."""
        await self._gate.without_lora(request.lora_int_id)
        await _translated(self._client.remove_lora(request.lora_int_id))
        self._gate.loras.slots.unpin(request.lora_int_id)


async def _add(client: Any, request: LoRARequest) -> Any:
    return await _translated(client.add_lora(request))


async def _translated(call: Any) -> Any:
    """What the engine's process answers about an adapter, its failure as one of ours."""
    try:
        return await call
    except EngineDeadError:
        raise EngineDead from None
    except Exception as error:  # the engine's process reports whatever it was as a bare exception
        raise _error(str(error)) from None


def _error(text: str) -> ServingError:
    if match := _WORKER_ERROR.search(text):
        text = match[1]
    kind = AdapterSlotsExhausted if any(sign in text for sign in _NO_SLOTS) else AdapterRefused
    return kind(" ".join(text.split()))
