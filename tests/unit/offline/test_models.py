# SPDX-License-Identifier: Apache-2.0
"""Both models on scripted engines: shapes of answers, adapters, what is asked of the engine."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from annotated_types import Gt

from serving.errors import PayloadError
from serving.offline import AsyncModel, Grammar, IncompleteOutput, Model, Piece, Regex

pytestmark = pytest.mark.pure


def output(prompt: Any, texts: list[str], scores: list[float] | None = None, finish: str = "stop") -> Any:
    choices = [
        SimpleNamespace(
            index=index, text=text, token_ids=[1] * len(text), finish_reason=finish, stop_reason=None, logprobs=None,
            cumulative_logprob=scores[index] if scores else None,
        )
        for index, text in enumerate(texts)
    ]  # fmt: skip
    return SimpleNamespace(outputs=choices, prompt_token_ids=[0] * len(prompt), prompt_logprobs=None)


class ScriptedEngine:
    """Echoes; notes what it was asked."""

    model_config = SimpleNamespace(max_model_len=99)
    tokenizer = "a tokenizer"

    def __init__(self, texts: list[str] | None = None, scores: list[float] | None = None, finish: str = "stop"):
        self.texts, self.scores, self.finish = texts, scores, finish
        self.asked: list[Any] = []

    def sampling(self, given: Any, keywords: Any, constraint: Any) -> Any:
        if "foo" in keywords:
            raise PayloadError("no foo")
        self.constraint = constraint
        made = len(self.texts) if self.texts else 1
        count = keywords.get("n", 1)
        return SimpleNamespace(params=None, count=count, is_ranked=made > count)

    def run(self, prompts: Any, are_chats: bool, params: Any, lora: str | None, progress: bool) -> list[Any]:
        self.asked.append((list(prompts), are_chats, lora))
        return [output(prompt, self.texts or [f"{prompt}!"], self.scores, self.finish) for prompt in prompts]

    def load_lora(self, where: str) -> None:
        self.asked.append(("load", where))

    def unload_lora(self, where: str) -> None:
        self.asked.append(("unload", where))

    def directory(self, where: str) -> str:
        return where.rstrip("/")

    def shutdown(self) -> None:
        self.asked.append("shutdown")


class LoopScripted(ScriptedEngine):
    async def outputs(
        self, prompt: Any, is_chat: bool, params: Any, lora: str | None, request_id: str | None, stream: bool
    ) -> AsyncGenerator[Any]:
        self.asked.append((prompt, is_chat, lora, request_id))
        if prompt == "bad":
            raise PayloadError("bad prompt")
        try:
            if prompt == "slow":
                await asyncio.sleep(60)
            for text in f"{prompt}!" if stream else [f"{prompt}!"]:
                yield output(prompt, [text])
        finally:
            self.asked.append(f"end {prompt}")

    async def load_lora(self, where: str) -> None:  # type: ignore[override]
        self.asked.append(("load", where))

    async def unload_lora(self, where: str) -> None:  # type: ignore[override]
        self.asked.append(("unload", where))

    async def directory(self, where: str) -> str:  # type: ignore[override]
        return where.rstrip("/")

    async def close(self) -> None:
        self.asked.append("close")


def test_shapes() -> None:
    model = Model(ScriptedEngine())
    assert model("a") == "a!"
    assert model(["a"]) == ["a!"]
    assert model(["a", "b"]) == ["a!", "b!"]
    assert model([]) == []
    assert [[sample.text for sample in samples] for samples in model.generate("a")] == [["a!"]]
    assert (model.max_model_len, model.tokenizer) == (99, "a tokenizer")


def test_several_samples() -> None:
    model = Model(ScriptedEngine(["x", "y"]))
    assert model("a", n=2) == ["x", "y"]
    assert model(["a", "b"], n=2) == [["x", "y"], ["x", "y"]]


def test_the_best_samples() -> None:
    model = Model(ScriptedEngine(["x", "y", "z"], [-3.0, -1.0, -2.0]))
    assert model("a", n=2) == ["y", "z"]


def test_values() -> None:
    engine = ScriptedEngine(["12"])
    model = Model(engine)
    assert model("a", int) == 12
    assert engine.constraint == {"json": {"type": "integer"}}
    assert model("a", Regex("[0-9]+")) == "12"


@pytest.mark.parametrize(
    ("text", "output_type"),
    [
        ('{"a":', {"type": "object"}),
        ("de", ["definitely", "no"]),
        ("16", int),
        ("16", Regex("[0-9]{9}")),
        ("a", Grammar("root ::= 'ab'")),
    ],
    ids=str,
)
def test_cut(text: str, output_type: Any) -> None:
    model = Model(ScriptedEngine([text], finish="length"))
    [[sample]] = model.generate("a", output_type)
    assert sample.text == text
    with pytest.raises(IncompleteOutput, match="max_tokens") as caught:
        model("a", output_type)
    assert caught.value.sample == sample


@pytest.mark.parametrize(
    ("text", "output_type", "value"),
    [("no", ["yes", "no"], "no"), ("168", Regex("[0-9]{3}"), "168"), ("[1]", list[int], [1]), ("x", str, "x")],
    ids=str,
)
def test_whole_at_the_last_token(text: str, output_type: Any, value: Any) -> None:
    assert Model(ScriptedEngine([text], finish="length"))("a", output_type) == value


def test_refused_by_its_type() -> None:
    """Nothing is said of `max_tokens` where the answer was whole."""
    with pytest.raises(ValueError, match="greater than 3") as caught:
        Model(ScriptedEngine(["2"]))("a", Annotated[int, Gt(3)])
    assert not isinstance(caught.value, IncompleteOutput)


def test_beams_are_ranked_already() -> None:
    """By a length penalty, which the score does not show."""
    engine = ScriptedEngine(["x", "y", "z"], [-3.0, -1.0, -2.0])
    engine.sampling = lambda *_: SimpleNamespace(params=None, count=2, is_ranked=False)  # type: ignore[method-assign]
    assert Model(engine)("a") == ["x", "y"]


def test_the_base_model_cannot_be_unloaded() -> None:
    with pytest.raises(PayloadError, match=r"load_lora\(None\)"):
        Model(ScriptedEngine()).unload_lora(None)  # type: ignore[arg-type]


def test_adapters() -> None:
    engine = ScriptedEngine()
    model = Model(engine, {"near": "/model/adapters/near"})  # type: ignore[dict-item]
    model("a")
    model.load_lora("/far")
    model("a")
    model("a", lora="near")
    model("a", lora=None)
    model("a")
    model.unload_lora("/far/")
    model("a")
    model.load_lora("near")
    model.load_lora(None)
    model("a")
    used = [entry[2] for entry in engine.asked if len(entry) == 3]
    assert used == [None, "/far", "/model/adapters/near", None, "/far", None, None]
    others = [entry for entry in engine.asked if len(entry) == 2]
    assert others == [("load", "/far"), ("unload", "/far/"), ("load", "/model/adapters/near")]


def test_chats() -> None:
    engine = ScriptedEngine()
    chat = [{"role": "user", "content": "Hi"}]
    Model(engine)(chat)
    assert engine.asked == [([chat], True, None)]


def test_end() -> None:
    engine = ScriptedEngine()
    with Model(engine):
        pass
    assert engine.asked == ["shutdown"]


async def test_async_shapes() -> None:
    engine = LoopScripted()
    async with AsyncModel(engine) as model:
        assert await model("a") == "a!"
        assert await model(["a", "b"]) == ["a!", "b!"]
        assert await model([]) == []
        assert [piece.text async for piece in model.stream("ab")] == ["a", "b", "!"]
        assert (model.max_model_len, model.tokenizer) == (99, "a tokenizer")
    assert engine.asked[-1] == "close"


async def test_pieces() -> None:
    pieces = [piece async for piece in AsyncModel(LoopScripted()).stream("a")]
    assert pieces[0] == Piece("a", (1,), 0, "stop")


async def test_a_failure_ends_the_batch() -> None:
    engine = LoopScripted()
    with pytest.raises(PayloadError, match="bad prompt"):
        await AsyncModel(engine).generate(["slow", "bad"], request_id="r")
    assert engine.asked[-1] == "end slow"


async def test_cancelled() -> None:
    engine = LoopScripted()
    task = asyncio.create_task(AsyncModel(engine).generate("slow"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.asked[-1] == "end slow"


async def test_closed_stream() -> None:
    engine = LoopScripted()
    stream = AsyncModel(engine).stream("abc")
    assert (await anext(stream)).text == "a"
    await stream.aclose()
    assert engine.asked[-1] == "end abc"


async def test_async_adapters() -> None:
    engine = LoopScripted()
    model = AsyncModel(engine)
    await model.load_lora("/far")
    await model("a")
    await model("a", lora=None)
    await model.unload_lora("/far")
    await model("a")
    used = [entry[2] for entry in engine.asked if isinstance(entry, tuple) and len(entry) == 4]
    assert used == ["/far", None, None]


@pytest.mark.parametrize(("prompt", "texts", "text"), [(["a"], ["x"], "one prompt"), ("a", ["x", "y"], "best_of")])
async def test_streams_refused(prompt: Any, texts: list[str], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        await anext(AsyncModel(LoopScripted(texts)).stream(prompt))
