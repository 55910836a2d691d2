# SPDX-License-Identifier: Apache-2.0
"""The gate counts, refuses and times what goes through it, and closes the engine's generator however it ends."""

import asyncio
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from serving.config.limits import Limits
from serving.engine import gate as gate_module
from serving.engine import lora_gate
from serving.engine.gate import EngineGate
from serving.engine.lora_gate import LoraGate
from serving.engine.lora_slots import LoraSlots
from serving.errors import AdapterSlotsExhausted
from tests.unit.engine.test_lora_gate import LoraRequest

pytestmark = pytest.mark.pure


class Refused(Exception):
    """What the gate was told to raise."""


class Client:
    """Stands for vLLM's client: an item after each of these pauses, and a flag for the end."""

    name = "client"

    def __init__(self, *pauses_s: float) -> None:
        self.pauses_s = pauses_s
        self.has_ended = False

    async def generate(self, prompt: str) -> AsyncGenerator[str]:
        try:
            for pause_s in self.pauses_s:
                await asyncio.sleep(pause_s)
                yield prompt
        finally:
            self.has_ended = True


def loras(failure: Exception | None = None) -> LoraGate:
    """Two slots."""

    async def add(request: LoraRequest) -> bool:
        if failure:
            raise failure
        return True

    return LoraGate(lambda path: None, str, add, LoraSlots(2))


@pytest.fixture
def adapter(tmp_path: Path) -> LoraRequest:
    (tmp_path / "adapter_config.json").write_text("{}")
    return LoraRequest("a1", 1, str(tmp_path))


def gate(
    client: Client,
    num_in_flight: int = 10,
    first_output_s: float = 60,
    gap_s: float = 60,
    failure: Exception | None = None,
) -> EngineGate:
    opened = EngineGate(client, "m", Refused, loras(failure))
    opened.limits = Limits(num_in_flight, first_output_s, gap_s, 60)
    return opened


async def test_counts_and_closes() -> None:
    client = Client(0, 60)
    opened = gate(client)
    outputs = opened.generate("x")
    assert opened.num_in_flight == 1
    assert await anext(outputs) == "x"
    assert opened.num_in_flight == 1
    await outputs.aclose()
    assert opened.num_in_flight == 0
    assert client.has_ended


async def test_end() -> None:
    opened = gate(Client(0, 0))
    assert [output async for output in opened.generate("x")] == ["x", "x"]
    assert opened.num_in_flight == 0


async def test_cancelled_consumer() -> None:
    client = Client(0, 60)
    opened = gate(client)

    async def consume() -> None:
        async for _ in opened.generate("x"):
            pass

    task = asyncio.create_task(consume())
    while opened.num_in_flight == 0:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert opened.num_in_flight == 0
    assert client.has_ended


async def test_outputs_that_nobody_asked_for() -> None:
    """vLLM makes all generators of a batch first; where one is refused the others are dropped as they are."""
    opened = gate(Client(0))
    kept = opened.generate("x")
    assert opened.num_in_flight == 1
    await asyncio.sleep(1)
    assert opened.num_in_flight == 0
    assert await anext(kept) == "x"
    assert opened.num_in_flight == 1


async def test_limit() -> None:
    client = Client(0, 0)
    opened = gate(client, num_in_flight=2)
    first, second = opened.generate("x"), opened.generate("x")
    with pytest.raises(Refused) as raised:
        opened.generate("x")
    assert raised.value.args == ("Worker queue capacity exceeded for model: m", HTTPStatus.SERVICE_UNAVAILABLE)
    await first.aclose()
    third = opened.generate("x")
    assert [output async for output in third] == ["x", "x"]
    assert [output async for output in second] == ["x", "x"]


@pytest.mark.parametrize(
    ("pauses_s", "first_output_s", "gap_s", "before"), [((60,), 0.1, 60, 0), ((0, 0.1, 60), 60, 0.2, 2)]
)
async def test_output_that_is_late(
    pauses_s: tuple[float, ...], first_output_s: float, gap_s: float, before: int
) -> None:
    client = Client(*pauses_s)
    opened = gate(client, first_output_s=first_output_s, gap_s=gap_s)
    outputs = opened.generate("x")
    for _ in range(before):
        assert await anext(outputs) == "x"
    with pytest.raises(Refused) as raised:
        await anext(outputs)
    text, status = raised.value.args
    assert status is HTTPStatus.GATEWAY_TIMEOUT
    assert text.startswith(f"no output within {min(first_output_s, gap_s):g} s; predict_timeout")
    assert client.has_ended
    assert opened.num_in_flight == 0
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_slow_consumer_is_not_late() -> None:
    """Only the engine's time counts, not the time until the consumer asks again."""
    opened = gate(Client(0, 0), first_output_s=0.1, gap_s=0.1)
    outputs = opened.generate("x")
    await asyncio.sleep(0.7)
    assert await anext(outputs) == "x"
    await asyncio.sleep(0.7)
    assert await anext(outputs) == "x"


async def test_client_that_leaves_while_it_is_late() -> None:
    """A cancellation from outside stays one."""
    opened = gate(Client(60), first_output_s=0.05)
    outputs = opened.generate("x")
    task = asyncio.create_task(anext(outputs))
    await asyncio.sleep(0.1)
    outputs.expire(asyncio.get_running_loop().time())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_limits_while_starting() -> None:
    opened = EngineGate(Client(0.4), "m", Refused, loras())
    assert [output async for output in opened.generate("x")] == ["x"]


async def test_everything_else_is_the_clients() -> None:
    assert gate(Client()).name == "client"


class LoraClient(Client):
    async def generate(self, prompt: str, lora_request: LoraRequest | None = None) -> AsyncGenerator[str]:
        async for item in super().generate(prompt):
            yield item


async def test_adapter_is_given_up_after_its_last_request(adapter: LoraRequest) -> None:
    opened = gate(LoraClient(0, 0.5))
    await opened.add_lora(adapter)
    outputs, other = opened.generate("x", lora_request=adapter), opened.generate("x")
    assert [await anext(outputs), await anext(other)] == ["x", "x"]
    waiting = asyncio.create_task(opened.without_lora(adapter.lora_int_id))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await outputs.aclose()
    await asyncio.wait_for(waiting, 30)
    assert opened.num_in_flight == 1
    await other.aclose()
    with pytest.raises(Refused, match="adapter a1 was unloaded"):
        opened.generate("x", lora_request=adapter)


async def test_adapter_whose_files_are_gone(adapter: LoraRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would die of loading it again."""
    monkeypatch.setattr(lora_gate, "_TRUSTED_S", 0)
    opened = gate(LoraClient(0))
    await opened.add_lora(adapter)
    Path(adapter.lora_path, "adapter_config.json").unlink()
    with pytest.raises(Refused) as raised:
        opened.generate("x", lora_request=adapter)
    text, status = raised.value.args
    assert text.startswith(f"the files of adapter a1 are gone or changed: {adapter.lora_path}; ")
    assert (status, opened.num_in_flight) == (HTTPStatus.FAILED_DEPENDENCY, 0)


async def test_offered_adapter_that_does_not_load(adapter: LoraRequest) -> None:
    opened = gate(LoraClient(0), failure=AdapterSlotsExhausted("No free lora slots"))
    await opened.loras.offer(adapter)
    outputs = opened.generate("x", lora_request=adapter)
    with pytest.raises(Refused) as raised:
        await anext(outputs)
    assert raised.value.args == ("No free lora slots", HTTPStatus.FAILED_DEPENDENCY)
    assert opened.num_in_flight == 0


async def test_wait_for_a_slot(adapter: LoraRequest) -> None:
    """It counts as in flight, is bounded like any other wait, and ends with the request that has the slot."""
    opened = gate(LoraClient(0, 0), first_output_s=2)
    numbers = [1, 2, 3]
    requests = [msgspec.structs.replace(adapter, lora_int_id=number, lora_name=f"a{number}") for number in numbers]
    for request in requests:
        await opened.add_lora(request)
    await opened.loras.slots.pin(1)
    first, second, third = (opened.generate("x", lora_request=request) for request in (requests[1], *requests[1:]))
    pinned = opened.generate("x", lora_request=requests[0])
    assert [await anext(one) for one in (first, second, pinned)] == ["x"] * 3
    with pytest.raises(Refused, match="no output within"):
        await anext(third)
    again = opened.generate("x", lora_request=requests[2])
    waiting = asyncio.create_task(anext(again))
    await asyncio.sleep(0.05)
    assert (waiting.done(), opened.num_in_flight, opened.loras.slots.num_waiting) == (False, 4, 1)
    await first.aclose()
    del second
    assert await asyncio.wait_for(waiting, 5) == "x"
    assert opened.loras.slots.num_waiting == 0


async def test_finished_output_frees_the_slot(adapter: LoraRequest) -> None:
    """A client that does not read the end keeps nobody waiting."""

    class Last(LoraClient):
        async def generate(self, prompt: str, lora_request: LoraRequest | None = None) -> AsyncGenerator[Any]:
            yield SimpleNamespace(finished=True)
            await asyncio.sleep(60)

    opened = gate(Last())
    await opened.add_lora(adapter)
    outputs = opened.generate("x", lora_request=adapter)
    await anext(outputs)
    await asyncio.wait_for(opened.without_lora(adapter.lora_int_id), 30)
    assert opened.num_in_flight == 1


async def test_dropped_request_of_an_adapter_that_is_gone(adapter: LoraRequest) -> None:
    """Nothing waits for what nobody reads, so it must not begin afterwards."""
    opened = gate(LoraClient(0))
    await opened.add_lora(adapter)
    outputs = opened.generate("x", lora_request=adapter)
    await asyncio.wait_for(opened.without_lora(adapter.lora_int_id), 30)
    with pytest.raises(Refused, match="was unloaded"):
        await anext(outputs)


async def test_stream_that_begins_after_it_was_dropped_is_timed() -> None:
    opened = gate(Client(60), first_output_s=0.1)
    outputs = opened.generate("x")
    await asyncio.sleep(1)
    with pytest.raises(Refused, match="no output within"):
        await asyncio.wait_for(anext(outputs), 30)


async def test_engine_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, and a client that does not ask for the next one, are no hang."""
    monkeypatch.setattr(gate_module, "_SWEEP_S", 0.02)
    opened = gate(Client(0, 0, 60))
    assert opened.stalled_s == 0
    outputs = opened.generate("x")
    await anext(outputs)
    await asyncio.sleep(0.3)
    assert opened.stalled_s < 0.1
    await anext(outputs)
    waiting = asyncio.create_task(anext(outputs))
    await asyncio.sleep(0.3)
    assert opened.stalled_s > 0.2
    waiting.cancel()
    await asyncio.sleep(0.1)
    assert opened.stalled_s == 0
