# SPDX-License-Identifier: Apache-2.0
"""Adapters: registration, their own code, and what is left after a failure."""

from pathlib import Path
from typing import Any

import pytest

from djl_python import Input
from djl_python.adapter_formatter_mixin import AdapterFormatterMixin
from djl_python.adapter_manager_mixin import AdapterManagerMixin
from tests.unit.djl_python.test_loading import write

pytestmark = pytest.mark.pure

PREFIX = """
def f(payload):
    return {"inputs": "%s" + payload["inputs"]}
f.is_input_formatter = True
"""


class Service(AdapterFormatterMixin):
    """Notes what it is asked to do; fails where `failure` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []
        self.failure: Exception | None = None

    def _note(self, *call: str) -> bool:
        if self.failure:
            raise self.failure
        self.calls.append(call)
        return True

    async def add_lora(self, lora_name: str, lora_alias: str, lora_path: str) -> bool:
        return self._note("add", lora_name, lora_alias, lora_path)

    async def remove_lora(self, lora_name: str, lora_alias: str) -> Any:
        return self._note("remove", lora_name, lora_alias)

    async def pin_lora(self, lora_name: str, lora_alias: str) -> Any:
        return self._note("pin", lora_name, lora_alias)


def call(name: str = "a", content: dict | None = None, **properties: Any) -> Input:
    inputs = Input()
    inputs.properties.update({"name": name, **properties})
    for key, value in (content or {}).items():
        inputs.content.add(key, value)
    return inputs


def told(output: Any) -> tuple[int, str]:
    return output.code, output.message


async def test_register(tmp_path: Path) -> None:
    service, src = Service(), str(tmp_path)
    assert told(await service.register_adapter(call(src=src))) == (200, "Adapter a registered")
    pinned = call("b", {"pin": b"true"}, src=src, alias="bee")
    assert told(await service.register_adapter(pinned)) == (200, "Adapter bee registered")
    assert told(await service.register_adapter(call("c", src=src, preload="false"))) == (200, "Adapter c registered")
    assert service.calls == [("add", "a", "a", src), ("add", "b", "bee", src), ("pin", "b", "bee")]
    assert list(service.adapter_registry) == ["a", "b", "c"]
    assert service.adapter_registry["a"].get_property("has_custom_code") == "false"
    assert service.get_adapter_formatter_handler("a") is None


async def test_refusals(tmp_path: Path) -> None:
    service, src = Service(), str(tmp_path)
    missing = f"{src}/absent"
    text = f"Only local LoRA models are supported. {missing} is not a valid path"
    output = await service.register_adapter(call(src=missing))
    assert told(output) == (424, text)
    assert output.content.size() == 1
    contradiction = call(src=src, preload="false", pin="true")
    assert told(await service.register_adapter(contradiction)) == (424, "Can not set preload to false and pin to true")
    assert told(await service.update_adapter(call(alias="x"))) == (424, "Adapter x not registered.")
    assert told(await service.unregister_adapter(call(alias="x"))) == (424, "Adapter x not registered.")
    assert (service.adapter_registry, service.calls) == ({}, [])


async def test_update(tmp_path: Path) -> None:
    service, src = Service(), str(tmp_path)
    await service.register_adapter(call(src=src))
    assert told(await service.update_adapter(call(src=src, pin="true"))) == (200, "Adapter a updated")
    assert told(await service.update_adapter(call(src=src + "/."))) == (424, "Updating adapter path is not supported.")
    assert told(await service.update_adapter(call(src=src))) == (424, "Unpinning an adapter is not supported.")
    contradiction = call(src=src, preload="false", pin="true")
    assert told(await service.update_adapter(contradiction)) == (424, "Can not set load to false and pin to true")


@pytest.mark.parametrize("text", ["No free lora slots", "9 is greater than the number of GPU LoRA slots"])
async def test_no_room(tmp_path: Path, text: str) -> None:
    service = Service()
    service.failure = RuntimeError(f"Call failed: {text}.")
    with pytest.raises(MemoryError, match=text):
        await service.register_adapter(call(src=write(tmp_path, PREFIX % "A:")))
    assert (service.adapter_registry, service.adapter_code_registry) == ({}, {})


async def test_code_of_an_adapter(tmp_path: Path) -> None:
    service = Service()
    await service.register_adapter(call(src=write(tmp_path, PREFIX % "A:")))
    functions = service.get_adapter_formatter_handler("a")
    assert service.adapter_registry["a"].get_property("has_custom_code") == "true"
    assert functions.apply_input_formatter({"inputs": "x"}) == {"inputs": "A:x"}
    assert functions.output_formatter is None
    assert told(await service.unregister_adapter(call())) == (200, "Adapter a unregistered")
    assert service.get_adapter_formatter_handler("a") is None
    assert service.adapter_registry == {}
    assert service.unload_adapter_custom_code("a") is False


async def test_adapters_dont_share_code(tmp_path: Path) -> None:
    service = Service()
    for name in ("a-b", "a.b", "a_b"):
        service.load_adapter_custom_code(name, write(tmp_path / name, PREFIX % name))
    answers = [
        service.adapter_code_registry[name].apply_input_formatter({"inputs": ""}) for name in ("a-b", "a.b", "a_b")
    ]
    assert answers == [{"inputs": "a-b"}, {"inputs": "a.b"}, {"inputs": "a_b"}]


async def test_broken_code(tmp_path: Path) -> None:
    """Weights stay untouched, and so does what an earlier registration brought."""
    service = Service()
    with pytest.raises(FileNotFoundError, match="Adapter a has no custom code"):
        service.load_adapter_custom_code("a", str(tmp_path))
    await service.register_adapter(call(src=write(tmp_path / "good", PREFIX % "A:")))
    broken = call(src=write(tmp_path / "broken", "def f(:"))
    code, message = told(await service.register_adapter(broken))
    assert code == 424
    assert message.startswith("Failed to load custom code for adapter a: ")
    assert len(service.calls) == 1
    functions = service.get_adapter_formatter_handler("a")
    assert functions.apply_input_formatter({"inputs": "x"}) == {"inputs": "A:x"}


async def test_weights_that_cant_be_removed(tmp_path: Path) -> None:
    """Registry entry and code both stay."""
    service = Service()
    await service.register_adapter(call(src=write(tmp_path, PREFIX % "A:")))
    service.failure = Exception("Failed to remove weights")
    output = await service.unregister_adapter(call())
    assert told(output) == (424, "Failed to remove weights")
    assert output.content.size() == 1
    assert list(service.adapter_registry) == list(service.adapter_code_registry) == ["a"]


def test_a_service_must_say_how_weights_are_loaded() -> None:
    with pytest.raises(TypeError, match="abstract"):
        AdapterManagerMixin()  # type: ignore[abstract]
