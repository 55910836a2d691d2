# SPDX-License-Identifier: Apache-2.0
"""Which adapters requests may use, and what the engine is told of them."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest
from prometheus_client import REGISTRY

from serving.engine import lora_gate
from serving.engine.lora_gate import LoraGate
from serving.engine.lora_slots import LoraSlots
from serving.errors import AdapterRefused

pytestmark = pytest.mark.pure
CONFIG = "adapter_config.json"


class LoraRequest(msgspec.Struct):
    """The part of vLLM's that is used here."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class Parts:
    """A gate with an engine that takes every adapter, after a moment."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.loaded: list[LoraRequest] = []
        self.failure: Exception | None = None
        self.gate = LoraGate(self.check, str, self.add, LoraSlots(4))

    def check(self, path: Path) -> None:
        if not (path / CONFIG).exists():
            raise AdapterRefused(f"{path} has no {CONFIG}")

    async def add(self, request: LoraRequest) -> bool:
        await asyncio.sleep(0.01)
        if self.failure:
            raise self.failure
        self.loaded.append(request)
        return True

    def write(self, text: str) -> None:
        (self.folder / CONFIG).write_text(text)

    def request(self, number: int) -> LoraRequest:
        return LoraRequest(f"a{number}", number, str(self.folder))


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(lora_gate, "_TRUSTED_S", 0)
    made = Parts(tmp_path)
    made.write("{}")
    return made


async def test_life(parts: Parts) -> None:
    one = parts.request(1)
    with pytest.raises(AdapterRefused, match="adapter a1 was unloaded"):
        parts.gate.usable(one)
    assert await parts.gate.add(one) is True
    assert parts.gate.usable(one).request == one
    parts.gate.remove(1)
    with pytest.raises(AdapterRefused, match="adapter a1 was unloaded"):
        parts.gate.usable(one)


async def test_metrics_have_the_adapters_that_are_there(parts: Parts) -> None:
    label = {"adapter": "a7"}
    await parts.gate.add(parts.request(7))
    known = parts.gate.usable(parts.request(7))
    await parts.gate.enter(known, user := Parts(parts.folder))
    assert REGISTRY.get_sample_value("lmi_adapter_requests_total", label) == 1
    parts.gate.slots.release(7, user)
    parts.gate.remove(7)
    assert REGISTRY.get_sample_value("lmi_adapter_requests_total", label) is None
    await parts.gate.enter(known, Parts(parts.folder))
    assert REGISTRY.get_sample_value("lmi_adapter_requests_total", label) is None


async def test_bad_files_never_reach_the_engine(parts: Parts) -> None:
    (parts.folder / CONFIG).unlink()
    for call in (parts.gate.add, parts.gate.offer):
        with pytest.raises(AdapterRefused, match="has no adapter_config"):
            await call(parts.request(1))
    assert parts.loaded == []


async def test_refused_by_the_engine(parts: Parts) -> None:
    parts.failure = AdapterRefused("no")
    with pytest.raises(AdapterRefused, match="no"):
        await parts.gate.add(parts.request(1))
    with pytest.raises(AdapterRefused, match="was unloaded"):
        parts.gate.usable(parts.request(1))


async def test_offered_is_loaded_once(parts: Parts) -> None:
    await parts.gate.offer(parts.request(1))
    assert parts.loaded == []
    known = parts.gate.usable(parts.request(1))
    users = [Parts(parts.folder) for _ in range(2)]
    await asyncio.gather(*[parts.gate.enter(known, user) for user in users])
    assert parts.loaded == [parts.request(1)]


async def test_offered_is_tried_again(parts: Parts) -> None:
    parts.failure = AdapterRefused("later")
    await parts.gate.offer(parts.request(1))
    known = parts.gate.usable(parts.request(1))
    with pytest.raises(AdapterRefused, match="later"):
        await parts.gate.enter(known, parts)
    parts.failure = None
    await parts.gate.enter(known, parts)
    assert parts.loaded == [parts.request(1)]


async def test_changed_files(parts: Parts) -> None:
    """Refused until they are loaded again, and then under another text, by which the prefix cache goes."""
    await parts.gate.add(parts.request(1))
    parts.write("{ }")
    with pytest.raises(AdapterRefused, match="the files of adapter a1 are gone or changed"):
        parts.gate.usable(parts.request(1))
    await parts.gate.add(parts.request(2))
    path = parts.gate.usable(parts.request(2)).request.lora_path
    assert path != str(parts.folder)
    assert os.path.samefile(path, parts.folder)
    await parts.gate.add(parts.request(3))
    assert parts.gate.usable(parts.request(3)).request.lora_path == path


async def test_files_are_looked_at_now_and_then(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_gate, "_TRUSTED_S", 60)
    await parts.gate.add(parts.request(1))
    (parts.folder / CONFIG).unlink()
    parts.gate.usable(parts.request(1))


async def test_request_of_an_adapter_that_was_replaced(parts: Parts) -> None:
    """It was looked up before, and gets what has the name now; what is under way keeps what it has."""
    first, second = parts.request(1), LoraRequest("a1", 2, str(parts.folder))
    await parts.gate.add(first)
    before = parts.gate.usable(first)
    await parts.gate.add(second)
    parts.gate.remove(1)
    assert parts.gate.usable(first).request.lora_int_id == 2
    await parts.gate.enter(before, parts)
    with pytest.raises(AdapterRefused, match="was unloaded"):
        parts.gate.check_kept(before)
    parts.gate.remove(2)
    with pytest.raises(AdapterRefused, match="was unloaded"):
        parts.gate.usable(first)


async def test_names_while_one_is_replaced(parts: Parts) -> None:
    """vLLM tells adapters by their names, of which no two in use may be the same; users and metrics see theirs."""
    numbers = [1, 2, 3]
    requests = [LoraRequest("a1", number, str(parts.folder)) for number in numbers]
    await parts.gate.add(requests[0])
    used = parts.gate.usable(requests[0])
    await parts.gate.add(requests[1])
    parts.gate.remove(1)
    assert [one.lora_name for one in parts.loaded] == ["a1", "a1#2"]
    assert [used.name, parts.gate.usable(requests[1]).name] == ["a1", "a1"]
    del used
    await parts.gate.add(requests[2])
    assert parts.loaded[-1].lora_name == "a1"


async def test_hold_is_no_new_look(parts: Parts) -> None:
    """Else requests would be answered with weights that nobody checked."""
    await parts.gate.add(parts.request(1))
    await parts.gate.hold(parts.request(1))
    assert parts.loaded == [parts.request(1)] * 2
    parts.write("{ }")
    with pytest.raises(AdapterRefused, match="gone or changed"):
        await parts.gate.hold(parts.request(1))


async def test_files_that_change_while_a_request_waits(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await parts.gate.add(parts.request(1))
    known = parts.gate.usable(parts.request(1))
    for _ in range(4):
        await parts.gate.slots.pin(10 + _)
    waiting = asyncio.create_task(parts.gate.enter(known, parts))
    await asyncio.sleep(0.01)
    parts.write("{ }")
    parts.gate.slots.unpin(10)
    with pytest.raises(AdapterRefused, match="gone or changed"):
        await waiting
