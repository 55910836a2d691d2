# SPDX-License-Identifier: Apache-2.0
"""Both models on scripted engines: shapes of answers, adapters, what is asked of the engine."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from serving.errors import PayloadError
from serving.offline import AsyncModel, IncompleteOutput, Model, Piece, Regex

pytestmark = pytest.mark.pure


def output(prompt: Any, texts: list[str], scores: list[float] | None = None) -> Any:
    choices = [
        SimpleNamespace(
            index=index, text=text, token_ids=[1] * len(text), finish_reason="stop", stop_reason=None, logprobs=None,
            cumulative_logprob=scores[index] if scores else None,
        )
        for index, text in enumerate(texts)
    ]  # fmt: skip
    return SimpleNamespace(outputs=choices, prompt_token_ids=[0] * len(prompt), prompt_logprobs=None)


class ScriptedEngine:
    """Echoes; notes what it was asked."""

    model_config = SimpleNamespace(max_model_len=99)
    tokenizer = "a tokenizer"

    def __init__(self, texts: list[str] | None = None, scores: list[float] | None = None):
        self.texts, self.scores = texts, scores
        self.asked: list[Any] = []

    def sampling(self, given: Any, keywords: Any, constraint: Any) -> Any:
        if "foo" in keywords:
            raise PayloadError("no foo")
        self.constraint = constraint
        made = len(self.texts) if self.texts else 1
        return SimpleNamespace(params=SimpleNamespace(n=made), count=keywords.get("n", 1))

    def run(self, prompts: Any, are_chats: bool, params: Any, lora: str | None, progress: bool) -> list[Any]:
        self.asked.append((list(prompts), are_chats, lora))
        return [output(prompt, self.texts or [f"{prompt}!"], self.scores) for prompt in prompts]

    def load_lora(self, where: str) -> None:
        self.asked.append(("load", where))

    def unload_lora(self, where: str) -> None:
        self.asked.append(("unload", where))

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


def test_cut() -> None:
    model = Model(ScriptedEngine(['{"a":']))
    samples = model.generate("a", {"type": "object"})
    assert samples[0][0].text == '{"a":'
    with pytest.raises(IncompleteOutput, match="max_tokens") as caught:
        model("a", {"type": "object"})
    assert caught.value.sample == samples[0][0]


def test_adapters() -> None:
    engine = ScriptedEngine()
    model = Model(engine, {"near": "/model/adapters/near"})  # type: ignore[dict-item]
    model("a")
    model.load_lora("/far")
    model("a")
    model("a", lora="near")
    model("a", lora=None)
    model("a")
    model.unload_lora("/far")
    model("a")
    model.load_lora("near")
    model.load_lora(None)
    model("a")
    used = [entry[2] for entry in engine.asked if len(entry) == 3]
    assert used == [None, "/far", "/model/adapters/near", None, "/far", None, None]
    others = [entry for entry in engine.asked if len(entry) == 2]
    assert others == [("load", "/far"), ("unload", "/far"), ("load", "/model/adapters/near")]


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
