# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in vLLM's engine, behind the `Loras` protocol. Part of `vllm_engine.py`, which makes it.

vLLM's own table of adapters (`lora_requests`) is the truth about what is loaded; its routes change it, too.
"""

import asyncio
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.v1.engine.exceptions import EngineDeadError

from serving.engine import adapter_files
from serving.engine.gate import EngineGate
from serving.errors import AdapterRefused, AdapterSlotsExhausted, EngineDead, PayloadError, ServingError

_WORKER_ERROR = re.compile(r"Worker failed with error '(.*)', please check", re.DOTALL)
_NO_SLOTS = ("No free lora slots", "greater than the number of GPU LoRA slots", "All items are pinned")


class VllmLoras:
    """The adapters of one engine.

    Args:
        models: vLLM's table of models and adapters.
        client: vLLM's engine client.
        gate: knows which requests are under way.
        max_rank: the largest rank that the engine was started for.
        model_dir: the base model, if it is on disk.
    """

    def __init__(self, models: Any, client: Any, gate: EngineGate, max_rank: int, model_dir: Path):
        self._models = models
        self._client = client
        self._gate = gate
        self._max_rank = max_rank
        self._model_dir = model_dir
        self._offered: dict[str, Path] = {}
        self._loading = asyncio.Lock()
        self._forget = models.unload_lora_adapter
        # vLLM's routes forget the name alone; through this they free the engine's memory as well.
        models.unload_lora_adapter = self._unload

    @property
    def sources(self) -> Mapping[str, str]:
        """As `Loras.sources`."""
        return {name: request.lora_path for name, request in self._models.lora_requests.items()}

    async def load(self, name: str, path: Path) -> None:
        """As `Loras.load`. The files are checked first: the engine takes wrong shapes in silence."""
        await asyncio.to_thread(self._check, path)
        request = LoadLoRAAdapterRequest(lora_name=name, lora_path=str(path))
        try:
            result = await self._models.load_lora_adapter(request)
        except EngineDeadError:
            raise EngineDead from None
        if isinstance(result, ErrorResponse):
            raise _error(result.error.message)

    def offer(self, name: str, path: Path) -> None:
        """As `Loras.offer`."""
        self._offered[name] = path

    async def has(self, name: str) -> bool:
        """As `Loras.has`."""
        loaded = self._models.lora_requests
        if name in self._offered and name not in loaded:
            async with self._loading:
                if name in self._offered and name not in loaded:
                    try:
                        await self.load(name, self._offered[name])
                    except (AdapterRefused, AdapterSlotsExhausted) as error:
                        raise PayloadError(f"Input parsing failed: {error}") from None
        return name in loaded

    async def unload(self, name: str) -> None:
        """As `Loras.unload`."""
        self._offered.pop(name, None)
        if name in self._models.lora_requests:
            result = await self._unload(UnloadLoRAAdapterRequest(lora_name=name))
            if isinstance(result, ErrorResponse):
                raise _error(result.error.message)

    async def pin(self, name: str) -> None:
        """As `Loras.pin`."""
        request = self._models.lora_requests.get(name)
        if request is None:
            raise AdapterRefused(f"Adapter {name} not registered.")
        try:
            # The engine may have let go of it for others; only what it holds can be pinned.
            await self._client.add_lora(request)
            await self._client.pin_lora(request.lora_int_id)
        except EngineDeadError:
            raise EngineDead from None
        except Exception as error:  # the engine's process reports whatever it was as a bare exception
            raise _error(str(error)) from None

    async def _unload(self, request: UnloadLoRAAdapterRequest) -> ErrorResponse | str:
        known = self._models.lora_requests.get(request.lora_name)
        result: ErrorResponse | str = await self._forget(request)
        if known is not None and not isinstance(result, ErrorResponse):
            # A request that is still under way would have the engine load it again, from files that may be gone.
            await self._gate.without_adapter(known.lora_int_id)
            await self._client.remove_lora(known.lora_int_id)
        return result

    def _check(self, path: Path) -> None:
        adapter_files.check(path, self._max_rank, self._base_shapes)

    @cached_property
    def _base_shapes(self) -> adapter_files.BaseShapes | None:
        return adapter_files.base_shapes(self._model_dir)


def _error(text: str) -> ServingError:
    """What vLLM, or its engine's process, says about an adapter."""
    if match := _WORKER_ERROR.search(text):
        text = match[1]
    kind = AdapterSlotsExhausted if any(sign in text for sign in _NO_SLOTS) else AdapterRefused
    return kind(" ".join(text.split()))
