# SPDX-License-Identifier: Apache-2.0
"""Two scripted engines: one has the tokens that the contract's golden rows were recorded with, the other echoes."""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from serving.config.limits import Limits
from serving.engine.base import ModelFacts
from serving.engine.gate import EngineGate
from serving.engine.lora_gate import LoraGate
from serving.engine.lora_slots import LoraSlots
from serving.errors import (
    AdapterRefused,
    AdapterSlotsExhausted,
    EngineDead,
    EngineOverloaded,
    PayloadError,
    RequestTimeout,
    ServingError,
)
from serving.schemas.generation import EmbeddingRequest, GenerationChunk, GenerationRequest, OpenAIRequest, Token

EOS = 1
PROMPTS: Mapping[str, list[Token]] = {
    "hello world": [
        Token(74, "h", None),
        Token(71, "e", -6.53),
        Token(412, "ll", -6.65),
        Token(81, "o", -5.99),
        Token(410, " wor", -5.87),
        Token(78, "l", -5.97),
        Token(70, "d", -6.70),
    ],
}
ANSWERS: Mapping[str, list[Token]] = {
    "hello world": [
        Token(349, "ement", -5.26),
        Token(349, "ement", -5.38),
        Token(367, " Licensee", -5.40),
        Token(349, "ement", -5.28),
        Token(367, " Licensee", -5.40),
        Token(338, "ation", -5.39),
        Token(367, " Licensee", -5.41),
        Token(338, "ation", -5.40),
    ],
    "hello": [Token(257, "\N{REPLACEMENT CHARACTER}", -5.34), Token(367, " Licensee", -5.35)],
    "world": [Token(498, "CH", -5.1), Token(10, "(", -5.2)],
}


SAMPLED: Sequence[Sequence[Token]] = (
    (Token(374, "op", -1.0), Token(482, " y", -1.0)),
    (Token(103, "", -2.0), Token(94, "|", -2.0)),
)
"""What several choices come to; the first one is the most likely."""
SECOND = Token(257, "", -5.36)
END = Token(EOS, "</s>", -6.04, is_special=True)


class FakeTokenizer:
    """One token per character."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class FakeLoras:
    """Adapters that load unless their directory has a file `broken`; `full` has no room for a pinned one.

    Attributes:
        sources: name to directory of what requests may name.
        loaded: names of what was not only offered.
        pinned: names that keep their slot.
    """

    def __init__(self, names: Sequence[str]):
        self.sources = {name: f"/adapters/{name}" for name in names}
        self.loaded = set(names)
        self.pinned: set[str] = set()
        self.is_full = False

    async def load(self, name: str, path: Path, is_3d_weight: bool = False) -> None:
        await self.offer(name, path, is_3d_weight)
        self.loaded.add(name)

    async def offer(self, name: str, path: Path, is_3d_weight: bool = False) -> None:
        await asyncio.sleep(0)
        if (path / "broken").exists():
            raise AdapterRefused((path / "broken").read_text())
        self.sources[name] = str(path)
        self.loaded.discard(name)

    async def unload(self, name: str) -> None:
        self.sources.pop(name, None)
        self.loaded.discard(name)
        self.pinned.discard(name)

    async def pin(self, name: str) -> None:
        if self.is_full:
            raise AdapterSlotsExhausted("No free lora slots")
        self.pinned.add(name)


class FakeEngine:
    """Answers from the script; counts what is in flight; can be told to be slow, to fail or to be dead.

    Attributes:
        requests: every request that came in.
        tokens_per_step: how many tokens one chunk of a stream carries.
        step_s: seconds before each chunk.
        failure: raised after `fail_after` chunks.
    """

    def __init__(self, adapters: Sequence[str] = ()):
        self.loras = FakeLoras(adapters)
        self.facts = ModelFacts("org/m", "bfloat16", 512, 32)
        self.tasks: Sequence[str] = ("generate",)
        self.tokenizer = FakeTokenizer()
        self.is_dead = False
        self.num_in_flight = 0
        self.stalled_s = 0.0
        self.requests: list[GenerationRequest] = []
        self.tokens_per_step = 1
        self.step_s = 0.0
        self.failure: ServingError | Exception | None = None
        self.fail_after = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        self.requests.append(request)
        if self.is_dead:
            raise EngineDead
        self.num_in_flight += 1
        try:
            chunks = list(self._chunks(request))
            for number, chunk in enumerate(chunks):
                await asyncio.sleep(self.step_s)
                if self.failure is not None and number >= self.fail_after:
                    raise self.failure
                yield chunk
        finally:
            self.num_in_flight -= 1

    async def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        return [[float(len(text)), 0.5] for text in request.inputs]

    async def openai(self, request: OpenAIRequest, headers: Mapping[str, str]) -> bytes | AsyncGenerator[bytes]:
        raise PayloadError("the scripted engine answers LMI payloads only")

    async def openai_objects(self, request: OpenAIRequest, headers: Mapping[str, str]) -> Any:
        raise PayloadError("the scripted engine answers LMI payloads only")

    def _chunks(self, request: GenerationRequest) -> list[GenerationChunk]:
        fields = request.fields
        count = int(fields["max_tokens"])
        if fields.get("n", 1) == 1:
            return self._choice(request, 0, self._script(request, count))
        choices = [self._choice(request, index, SAMPLED[index % 2][:count]) for index in range(fields["n"])]
        return [chunk for step in zip(*choices, strict=True) for chunk in step]

    def _script(self, request: GenerationRequest, count: int) -> list[Token]:
        if request.fields.get("allowed_token_ids") == [EOS]:
            return [END]
        script = ANSWERS.get(str(request.prompt), ANSWERS["hello world"])
        return [script[number % len(script)] for number in range(count)]

    def _choice(self, request: GenerationRequest, index: int, tokens: Sequence[Token]) -> list[GenerationChunk]:
        """The chunks of one choice."""
        fields = request.fields
        stops = [fields["stop"]] if isinstance(fields.get("stop"), str) else fields.get("stop", [])
        reason: str | int | None = None
        finish, text = "length", ""
        kept: list[Token] = []
        for token in tokens:
            kept.append(token)
            if token.is_special:
                finish = "stop"
                break
            text += token.text
            if found := next((stop for stop in stops if stop in text), None):
                end = len(found) if fields.get("include_stop_str_in_output") else 0
                finish, reason, text = "stop", found, text[: text.index(found) + end]
                break
            if token.id in fields.get("stop_token_ids", []):
                finish, reason, text = "stop", token.id, text[: -len(token.text)]
                break
        shown = kept if fields.get("logprobs") is not None else []
        prompt = PROMPTS.get(str(request.prompt), [Token(0, str(request.prompt), None)])
        size = self.tokens_per_step if request.stream else len(kept)
        chunks, written = [], 0
        for start in range(0, len(kept), size):
            part = kept[start : start + size]
            is_last = start + size >= len(kept)
            so_far = text if is_last else "".join(token.text for token in kept[: start + size])[: len(text)]
            chunk = GenerationChunk(index, so_far[written:], shown[start : start + size], len(part))
            chunk.num_prompt_tokens = len(prompt)
            chunk.top_tokens = [[token, SECOND] for token in chunk.tokens] if request.num_top_tokens else []
            written = len(so_far)
            if is_last:
                chunk.finish_reason, chunk.stop_reason = finish, reason
                chunk.prompt_tokens = prompt if fields.get("prompt_logprobs") else []
                chunk.cumulative_logprob = sum(token.logprob or 0 for token in kept)
            chunks.append(chunk)
        return chunks


class GatedEngine(FakeEngine):
    """Behind the real gate, as vLLM's engine is: admission, and the end of waits that take too long."""

    def __init__(self, limits: Limits):
        super().__init__()
        engine = super()

        def client_generate(request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
            return engine.generate(request)

        async def add(request: Any) -> bool:
            return True

        loras = LoraGate(lambda path: None, str, add, LoraSlots(1))
        self._gate = EngineGate(SimpleNamespace(generate=client_generate), "test", _refusal, loras)
        self._gate.limits = limits

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        async with aclosing(self._gate.generate(request)) as outputs:
            async for output in outputs:
                yield output


def _refusal(text: str, status: HTTPStatus) -> ServingError:
    return {HTTPStatus.SERVICE_UNAVAILABLE: EngineOverloaded, HTTPStatus.GATEWAY_TIMEOUT: RequestTimeout}[status](text)


class Message(BaseModel):
    """What a chat's choice says."""

    role: str = "assistant"
    content: str


class Choice(BaseModel):
    """One answer to a prompt."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: str = "stop"


class ChatChoice(BaseModel):
    """One answer to a chat."""

    index: int
    message: Message
    finish_reason: str = "stop"


class Usage(BaseModel):
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    """Stands for vLLM's response objects."""

    id: str
    object: str
    created: int = 1
    model: str
    choices: list[Choice] | list[ChatChoice]
    usage: Usage


class EchoEngine(FakeEngine):
    """Answers every prompt with `D:` and the prompt, one token per character, in LMI's and in OpenAI's words.

    Attributes:
        calls: how often it was asked, whatever for.
        bodies: every body in OpenAI's words that came in.
    """

    def __init__(self, adapters: Sequence[str] = ()):
        super().__init__(adapters)
        self.calls = 0
        self.bodies: list[OpenAIRequest] = []
        self._numbers = itertools.count()

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        self.calls += 1
        return super().generate(request)

    async def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        self.calls += 1
        self._check(request.model, [])
        return await super().embed(request)

    async def openai(self, request: OpenAIRequest, headers: Mapping[str, str]) -> bytes | AsyncGenerator[bytes]:
        answer = await self.openai_objects(request, headers)
        if isinstance(answer, AsyncGenerator):
            return self._objects(answer)
        return answer.model_dump_json().encode()

    async def openai_objects(self, request: OpenAIRequest, headers: Mapping[str, str]) -> Any:
        self.calls += 1
        self.bodies.append(request)
        if self.is_dead:
            raise EngineDead
        prompts, model = self._prompts(request), request.body.get("model")
        self._check(model, prompts)
        if request.body.get("stream"):
            return self._events(request.kind, prompts, model or "m0")
        await asyncio.sleep(self.step_s)
        if self.failure is not None:
            raise self.failure
        return self._answer(request, prompts, model or "m0")

    def _chunks(self, request: GenerationRequest) -> list[GenerationChunk]:
        self._check(request.model, [request.prompt])
        tokens = [Token(ord(character), character, -0.5) for character in f"D:{request.prompt}"]
        choices = [self._choice(request, index, tokens) for index in range(request.fields.get("n", 1))]
        for chunks in choices:
            chunks[-1].finish_reason = "stop"
        return [chunk for step in zip(*choices, strict=True) for chunk in step]

    def _check(self, model: str | None, prompts: Sequence[object]) -> None:
        if model is not None and model not in ("lmi", "m0", *self.loras.sources):
            raise PayloadError(f"The model `{model}` does not exist.")
        if any(len(str(prompt)) > 400 for prompt in prompts):
            raise PayloadError("Input parsing failed: the prompt is longer than the maximum model length of 400")

    def _prompts(self, request: OpenAIRequest) -> list[object]:
        if request.kind == "chat":
            content = request.body["messages"][-1]["content"]
            return [content if isinstance(content, str) else "".join(part.get("text", "") for part in content)]
        prompt = request.body["prompt"]
        is_batch = isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt)
        return prompt if is_batch else [prompt]

    def _answer(self, request: OpenAIRequest, prompts: Sequence[object], model: str) -> Answer:
        is_chat = request.kind == "chat"
        texts = [f"D:{prompt}" for prompt in prompts for _ in range(request.body.get("n") or 1)]
        read, written = sum(len(str(prompt)) for prompt in prompts), sum(map(len, texts))
        return Answer(
            id=f"cmpl-{next(self._numbers)}",
            object="chat.completion" if is_chat else "text_completion",
            model=model,
            choices=[
                ChatChoice(index=index, message=Message(content=text)) if is_chat else Choice(index=index, text=text)
                for index, text in enumerate(texts)
            ],
            usage=Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written),
        )

    async def _events(self, kind: str, prompts: Sequence[object], model: str) -> AsyncGenerator[str]:
        head = {"id": f"cmpl-{next(self._numbers)}", "created": 1, "model": model}
        self.num_in_flight += 1
        try:
            for number, choice in enumerate(_deltas(kind, prompts)):
                await asyncio.sleep(self.step_s)
                if self.failure is not None and number >= self.fail_after:
                    raise self.failure
                name = "chat.completion.chunk" if kind == "chat" else "text_completion"
                yield f"data: {json.dumps({**head, 'object': name, 'choices': [choice]})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.num_in_flight -= 1

    async def _objects(self, events: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
        async with aclosing(events):
            async for event in events:
                if (data := event.strip().removeprefix("data: ")) != "[DONE]":
                    yield data.encode()


def _deltas(kind: str, prompts: Sequence[object]) -> Iterator[dict[str, Any]]:
    """The choices of a stream's chunks, one per character; a chat's first one names the role."""
    for index, prompt in enumerate(prompts):
        if kind == "chat":
            yield {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        text = f"D:{prompt}"
        for number, character in enumerate(text, 1):
            said = {"delta": {"content": character}} if kind == "chat" else {"text": character, "logprobs": None}
            yield {"index": index, **said, "finish_reason": "stop" if number == len(text) else None}
