# SPDX-License-Identifier: Apache-2.0
"""The adapters of a server: what a change does to the engine, and that one which fails leaves everything as it was."""

from pathlib import Path

import pytest

from handlers.adapter_backends import EngineBackend
from handlers.adapter_sources import AdapterSources
from handlers.adapters import AdapterRegistry, Change
from handlers.user_formatters import UserFormatters
from serving.errors import AdapterExists, AdapterNotRegistered, AdapterRefused, AdapterSlotsExhausted, BadParameter
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure
FORMATTER = "def f(p): return p\nf.is_input_formatter = True\n"


class Hooks:
    """A handler's hooks: those of `answers`; an exception is raised."""

    def __init__(self, **answers: str | Exception):
        self.answers = answers
        self.calls: list[tuple[str, str]] = []

    def has_hook(self, hook: str) -> bool:
        return hook in self.answers

    async def call_hook(self, hook: str, change: Change) -> str:
        self.calls.append((hook, change.name))
        answer = self.answers[hook]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Parts:
    """A registry on the scripted engine, whose adapters lie in `root`."""

    def __init__(self, root: Path, hooks: Hooks | None = None):
        self.engine = FakeEngine()
        self.formatters = UserFormatters()
        sources = AdapterSources([str(root)], root / "copies")
        self.registry = AdapterRegistry(EngineBackend(self.engine, self.formatters, hooks), sources)
        self.root = root

    def adapter(self, name: str, **files: str) -> str:
        (self.root / name).mkdir()
        for file, text in files.items():
            (self.root / name / file.replace("_py", ".py")).write_text(text)
        return str(self.root / name)

    @property
    def names(self) -> list[str]:
        return [adapter.name for adapter in self.registry.all()]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


async def test_life_of_an_adapter(parts: Parts) -> None:
    src = parts.adapter("a", model_py=FORMATTER)
    assert await parts.registry.register(Change("a", src, alias="first")) == "Adapter first registered"
    assert parts.engine.loras.sources == {"a": src}
    assert parts.formatters.has_input
    assert parts.registry.describe("a").described() == {
        "name": "a", "src": src, "preload": True, "pin": False, "has_custom_code": "true"
    }  # fmt: skip
    assert await parts.registry.update(Change("a", pin=True)) == "Adapter a updated"
    assert parts.engine.loras.pinned == {"a"}
    with pytest.raises(AdapterExists):
        await parts.registry.register(Change("a", src))
    assert await parts.registry.unregister(Change("a")) == "Adapter a unregistered"
    assert (parts.engine.loras.sources, parts.formatters.is_empty, parts.names) == ({}, True, [])
    with pytest.raises(AdapterNotRegistered, match="The adapter first was not found"):
        await parts.registry.unregister(Change("a", alias="first"))


async def test_loading_and_unloading(parts: Parts) -> None:
    src, loras = parts.adapter("a"), parts.engine.loras
    await parts.registry.register(Change("a", src, preload=False))
    assert (loras.sources, loras.loaded) == ({"a": src}, set())
    await parts.registry.update(Change("a", preload=True))
    assert parts.registry.describe("a").preload
    assert loras.loaded == {"a"}
    await parts.registry.update(Change("a", preload=False))
    assert (loras.sources, loras.loaded) == ({"a": src}, set())
    await parts.registry.unregister(Change("a"))
    assert loras.sources == {}


async def test_updates_that_fail_change_nothing(tmp_path: Path) -> None:
    hooks = Hooks(update_adapter=AdapterRefused("no"))
    parts = Parts(tmp_path, hooks)
    src = parts.adapter("a")
    await parts.registry.register(Change("a", src, preload=False))
    with pytest.raises(AdapterRefused, match="no"):
        await parts.registry.update(Change("a", preload=True, pin=True))
    assert (parts.engine.loras.loaded, parts.engine.loras.pinned) == (set(), set())
    hooks.answers["update_adapter"] = "yes"
    parts.engine.loras.is_full = True
    with pytest.raises(AdapterSlotsExhausted):
        await parts.registry.update(Change("a", preload=True, pin=True))
    assert (parts.engine.loras.sources, parts.engine.loras.loaded) == ({"a": src}, set())
    assert not parts.registry.describe("a").pin


async def test_replacement_that_a_hook_refuses(tmp_path: Path) -> None:
    hooks = Hooks(register_adapter="welcome")
    parts = Parts(tmp_path, hooks)
    before, after = parts.adapter("a", model_py=FORMATTER), parts.adapter("b")
    await parts.registry.register(Change("a", before))
    hooks.answers["register_adapter"] = AdapterRefused("stays")
    with pytest.raises(AdapterRefused, match="stays"):
        await parts.registry.register(Change("a", after), replace_known=True)
    assert (parts.engine.loras.sources, parts.formatters.has_input) == ({"a": before}, True)


@pytest.mark.parametrize("name", ["", " ", "a/b", "x\n", "\0", "a\u200bb"])
async def test_name_that_no_route_could_say(parts: Parts, name: str) -> None:
    with pytest.raises(BadParameter, match="it must be a word without slashes"):
        await parts.registry.register(Change(name, parts.adapter("a")))


async def test_code_where_it_is_forbidden(parts: Parts) -> None:
    sources = AdapterSources([str(parts.root)], parts.root / "copies")
    registry = AdapterRegistry(EngineBackend(parts.engine, parts.formatters, None), sources, allows_code=False)
    with pytest.raises(AdapterRefused, match=r"a has a model\.py, which DISALLOW_CUSTOM_INFERENCE_SCRIPTS forbids"):
        await registry.register(Change("a", parts.adapter("a", model_py=FORMATTER)))
    await registry.register(Change("b", parts.adapter("b")))


async def test_failures_change_nothing(parts: Parts) -> None:
    broken, code = parts.adapter("broken", broken="rank 64"), parts.adapter("code", model_py="1/0")
    full = parts.adapter("full", model_py=FORMATTER)
    parts.engine.loras.is_full = True
    for change, kind, text in (
        (Change("a", broken), AdapterRefused, "rank 64"),
        (Change("a", code), AdapterRefused, "Failed to load custom code for adapter a: ZeroDivisionError"),
        (Change("a", full, pin=True), AdapterSlotsExhausted, "No free lora slots"),
        (Change("a", str(parts.root / "nope")), AdapterRefused, "is not a valid path"),
        (Change("a", "../elsewhere"), AdapterRefused, "outside option.adapter_roots"),
    ):
        with pytest.raises(kind, match=text):
            await parts.registry.register(change)
        assert (parts.engine.loras.sources, parts.formatters.is_empty, parts.names) == ({}, True, [])


async def test_link_out_of_the_roots(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> None:
    (parts.root / "link").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(AdapterRefused, match="outside"):
        await parts.registry.register(Change("a", str(parts.root / "link")))


async def test_start(parts: Parts) -> None:
    """A broken one is listed with its reason, and can be registered once it is mended."""
    good, bad = parts.adapter("good"), parts.adapter("bad", broken="no tensors")
    await parts.registry.load_all({"bad": Path(bad), "good": Path(good)})
    assert [adapter.described() for adapter in parts.registry.all()] == [
        {"name": "bad", "src": bad, "preload": True, "pin": False, "failed": "no tensors"},
        {"name": "good", "src": good, "preload": True, "pin": False},
    ]
    (parts.root / "bad/broken").unlink()
    await parts.registry.register(Change("bad", bad))
    assert parts.registry.describe("bad").failure == ""


async def test_adapters_of_other_routes(parts: Parts) -> None:
    """What comes by a flag or a plug-in of vLLM's is seen."""
    parts.engine.loras.sources["guest"] = "/elsewhere"
    assert parts.registry.describe("guest").src == "/elsewhere"
    with pytest.raises(AdapterExists):
        await parts.registry.register(Change("guest", parts.adapter("a")))
    await parts.registry.register(Change("a", str(parts.root / "a")))
    del parts.engine.loras.sources["a"]
    assert parts.names == ["guest"]
    await parts.registry.unregister(Change("guest"))
    assert parts.engine.loras.sources == {}


async def test_hooks_behind_the_engine(tmp_path: Path) -> None:
    hooks = Hooks(register_adapter="welcome", unregister_adapter=AdapterRefused("stays"))
    parts = Parts(tmp_path, hooks)
    src = parts.adapter("a")
    assert await parts.registry.register(Change("a", src)) == "welcome"
    assert await parts.registry.update(Change("a", pin=True)) == "Adapter a updated"
    with pytest.raises(AdapterRefused, match="stays"):
        await parts.registry.unregister(Change("a"))
    assert (parts.names, parts.engine.loras.pinned) == (["a"], {"a"})
    hooks.answers["register_adapter"] = AdapterRefused("no more")
    with pytest.raises(AdapterRefused, match="no more"):
        await parts.registry.register(Change("b", src))
    assert (parts.names, list(parts.engine.loras.sources)) == (["a"], ["a"])
    assert hooks.calls == [("register_adapter", "a"), ("unregister_adapter", "a"), ("register_adapter", "b")]
