# SPDX-License-Identifier: Apache-2.0
"""Adapters in vLLM's table and engine, on stand-ins for both that write down what they are asked."""

from collections.abc import AsyncGenerator
from http import HTTPStatus
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from vllm.lora.request import LoRARequest
from vllm.v1.engine.exceptions import EngineDeadError

from serving.engine.gate import EngineGate
from serving.engine.lora_gate import LoraGate
from serving.engine.lora_slots import LoraSlots
from serving.engine.vllm_loras import VllmLoras, _add
from serving.errors import AdapterRefused, AdapterSlotsExhausted, EngineDead

pytestmark = pytest.mark.vllm


class Client:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.failures: dict[str, Exception] = {}

    def _call(self, name: str, number: int) -> bool:
        if name in self.failures:
            raise self.failures[name]
        self.calls.append((name, number))
        return True

    async def add_lora(self, request: LoRARequest) -> bool:
        return self._call("add", request.lora_int_id)

    async def remove_lora(self, number: int) -> bool:
        return self._call("remove", number)

    async def pin_lora(self, number: int) -> bool:
        return self._call("pin", number)

    async def generate(self, prompt: str, lora_request: LoRARequest) -> AsyncGenerator[int]:
        yield lora_request.lora_int_id


class Parts:
    """Two slots."""

    def __init__(self, folder: Path):
        self.client = Client()
        numbers = count(1)
        self.models = SimpleNamespace(
            lora_requests={},
            lora_id_counter=SimpleNamespace(inc=lambda _: next(numbers)),
            is_base_model=lambda name: name == "lmi",
        )

        async def add(request: LoRARequest) -> Any:
            return await _add(self.client, request)

        def refusal(text: str, status: HTTPStatus) -> Exception:
            return LookupError(text)

        self.slots = LoraSlots(2)
        self.gate = EngineGate(self.client, "m", refusal, LoraGate(lambda path: None, str, add, self.slots))
        self.loras = VllmLoras(self.models, self.client, self.gate)
        self.folder = folder

    async def ask(self, name: str) -> int:
        """The engine's number of what answers."""
        outputs = self.gate.generate("x", lora_request=self.models.lora_requests[name])
        (number,) = [number async for number in outputs]
        return int(number)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


async def test_life(parts: Parts) -> None:
    await parts.loras.load("a", parts.folder, is_3d_weight=True)
    assert parts.loras.sources == {"a": str(parts.folder)}
    assert parts.models.lora_requests["a"].is_3d_lora_weight
    assert await parts.ask("a") == 1
    await parts.loras.unload("a")
    assert (parts.loras.sources, parts.client.calls) == ({}, [("add", 1), ("remove", 1)])
    await parts.loras.unload("a")


async def test_replacement(parts: Parts) -> None:
    """The new one is loaded before the old one goes; its pin goes with it."""
    await parts.loras.load("a", parts.folder)
    await parts.loras.pin("a")
    assert parts.slots.num_free == 1
    await parts.loras.load("a", parts.folder)
    assert parts.client.calls == [("add", 1), ("add", 1), ("pin", 1), ("add", 2), ("remove", 1)]
    assert (await parts.ask("a"), parts.slots.num_free) == (2, 2)


async def test_replacement_that_fails(parts: Parts) -> None:
    await parts.loras.load("a", parts.folder)
    parts.client.failures["add"] = Exception("Worker failed with error 'bad', please check the stack")
    with pytest.raises(AdapterRefused, match=r"^bad$"):
        await parts.loras.load("a", parts.folder)
    assert await parts.ask("a") == 1


async def test_offer(parts: Parts) -> None:
    def loads() -> float:
        return REGISTRY.get_sample_value("lmi_adapter_loads_total", {"outcome": "loaded"}) or 0

    before = loads()
    await parts.loras.offer("a", parts.folder, is_3d_weight=True)
    assert (parts.client.calls, list(parts.loras.sources), loads()) == ([], ["a"], before)
    assert await parts.ask("a") == 1
    assert (parts.client.calls, loads()) == ([("add", 1)], before + 1)
    assert parts.models.lora_requests["a"].is_3d_lora_weight


async def test_name_of_the_base_model(parts: Parts) -> None:
    with pytest.raises(AdapterRefused, match="lmi is a name of the base model"):
        await parts.loras.load("lmi", parts.folder)


async def test_pins_leave_a_slot_for_the_others(parts: Parts) -> None:
    for name in "abc":
        await parts.loras.load(name, parts.folder)
    await parts.loras.pin("a")
    await parts.loras.pin("a")
    with pytest.raises(AdapterSlotsExhausted, match=r"^No free lora slots: b cannot be pinned"):
        await parts.loras.pin("b")
    await parts.loras.unload("c")
    await parts.loras.pin("b")
    assert parts.slots.num_free == 0
    with pytest.raises(AdapterRefused, match="not registered"):
        await parts.loras.pin("c")


async def test_pin_that_fails(parts: Parts) -> None:
    await parts.loras.load("a", parts.folder)
    parts.client.failures["pin"] = Exception("All items are pinned")
    with pytest.raises(AdapterSlotsExhausted):
        await parts.loras.pin("a")
    assert parts.slots.num_free == 2


async def test_dead_engine(parts: Parts) -> None:
    parts.client.failures["add"] = EngineDeadError()
    with pytest.raises(EngineDead):
        await parts.loras.load("a", parts.folder)
