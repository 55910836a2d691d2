# SPDX-License-Identifier: Apache-2.0
"""What the built-in handlers share: a body to a payload, a typed request to the engine, its chunks to an answer.

Where the model or its adapter has formatters of the user's, they stand at both ends.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from handlers.base import InferenceRequest, InferenceResponse, adapter_of
from handlers.user_formatters import OutputFormatter, UserFormatters
from serving.engine.base import Engine
from serving.errors import AdapterNotFound, PayloadError
from serving.formatters.base import JSON, JSON_LINES, Formatter
from serving.formatters.registry import FORMATS
from serving.gathering import gather
from serving.schemas import content, forms
from serving.schemas.generation import GenerationChunk, GenerationRequest, LmiRequest, OpenAIRequest

_T = TypeVar("_T")
_NEUTRAL = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""What vLLM's completion request would otherwise take from the model's generation config."""


class EngineHandler:
    """A handler that has nothing to get ready and nothing to release: the engine is ready, and has its own owner.

    Args:
        engine: generates.
        formatters: the user's.
    """

    def __init__(self, engine: Engine, formatters: UserFormatters | None = None):
        self._engine = engine
        self._formatters = formatters or UserFormatters()

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def _read(self, request: InferenceRequest) -> tuple[dict[str, Any], str]:
        """The payload, and the adapter it is for, which then is its `model`; empty for the base model.

        Raises:
            PayloadError: the body cannot be read, or the user's formatter fails on it.
            AdapterNotFound: the adapter is not loaded.
        """
        if not self._formatters.has_input:
            payload = await _decoded(request)
            adapter = self._adapter_of(request, payload)
        else:
            payload, adapter = await self._read_formatted(request)
        if adapter:
            payload["model"] = adapter
        return payload, adapter

    async def _read_formatted(self, request: InferenceRequest) -> tuple[dict[str, Any], str]:
        """The same where an input formatter may have its say. A lone `input_fn` reads what nobody else could."""
        fault, payload = None, None
        try:
            payload = content.decode_any(request.content_type, request.body)
        except PayloadError as error:
            fault = error
        adapter = self._adapter_of(request, payload if isinstance(payload, dict) else {})
        speaker = self._speaker(adapter, payload)
        formatter = self._formatters.input_for(speaker)
        if fault is not None and (formatter is None or not formatter.is_lone):
            raise fault
        if formatter is None:
            return content.as_object(payload), adapter
        made = await formatter.apply(request, payload, self._engine.tokenizer)
        if speaker in self._engine.loras.sources:
            made.setdefault("model", speaker)
        return made, adapter or (self._adapter_of(request, made) if formatter.is_lone else "")

    def _adapter_of(self, request: InferenceRequest, payload: dict[str, Any]) -> str:
        """The adapter that the request names, which is taken out of `payload`; empty for the base model."""
        adapter = adapter_of(request, payload)
        self._check_adapter(adapter)
        return adapter

    def _check_adapter(self, adapter: str) -> None:
        if adapter and adapter not in self._engine.loras.sources:
            raise AdapterNotFound(adapter, list(self._engine.loras.sources))

    def _speaker(self, adapter: str, payload: Any) -> str:
        """Whose formatters are meant: those of the adapter, which a payload may also name as its model."""
        model = payload.get("model") if isinstance(payload, dict) else None
        return adapter or (model if isinstance(model, str) else "")

    def _output_formatter(self, adapter: str, payload: dict[str, Any]) -> OutputFormatter | None:
        if self._formatters.is_empty:
            return None
        return self._formatters.output_for(self._speaker(adapter, payload))

    async def _formatted(
        self, parsed: LmiRequest | OpenAIRequest, formatter: OutputFormatter, request: InferenceRequest
    ) -> InferenceResponse:
        """Has vLLM answer in its own words and the user's formatter make the answer of them.

        Raises:
            ServingError: the engine refused or failed, or the formatter failed.
        """
        if isinstance(parsed, LmiRequest):
            parsed = as_completion(parsed, self._engine.facts.max_model_len)
        answer = await self._engine.openai_objects(parsed, request.headers)
        if isinstance(answer, AsyncGenerator):
            return formatter.stream(request, answer)
        return await formatter.whole(request, answer)


async def _decoded(request: InferenceRequest) -> dict[str, Any]:
    if forms.is_multipart(request.content_type):
        return content.of_parts(await forms.fields(request.headers, request.body))
    return content.decode(request.content_type, request.body)


def as_completion(request: LmiRequest, most_tokens: int) -> OpenAIRequest:
    """A body in LMI's words in those of vLLM's completion request, which takes several prompts at once.

    Args:
        request: the body.
        most_tokens: the model's context; a larger limit means as much as fits.
    """
    first = request.generations[0]
    prompts = [one.prompt for one in request.generations]
    body = dict(first.fields) if first.use_generation_config else {**_NEUTRAL, **first.fields}
    limit = body.get("max_tokens")
    body |= {
        "prompt": prompts if len(prompts) > 1 else first.prompt,
        "stream": first.stream,
        "max_tokens": min(limit, most_tokens) if isinstance(limit, int) else limit,
    }
    if first.model is not None:
        body["model"] = first.model
    if first.stream:
        body.pop("prompt_logprobs", None)
    elif request.return_full_text and all(isinstance(prompt, str) for prompt in prompts):
        body["echo"] = True
        if request.prompt_only:
            body["max_tokens"] = 0
    return OpenAIRequest("completion", body)


async def answer(engine: Engine, request: LmiRequest, request_id: str) -> InferenceResponse:
    """Generates for every prompt of `request` and formats the answer; a stream is only started.

    Raises:
        ServingError: the engine refused or failed.
    """
    formatter = FORMATS[request.output_format].formatter
    generations = [replace(one, request_id=request_id) for one in request.generations]
    request = replace(request, generations=generations)
    if request.stream:
        stream = _stream(engine, request, formatter)
        return InferenceResponse(stream, formatter.stream_media_type, framing=formatter.framing)
    answers = await gather([_whole(engine, one, request.num_sequences) for one in generations])
    return InferenceResponse(formatter.whole(request, answers), formatter.media_type)


async def openai(engine: Engine, parsed: OpenAIRequest, request: InferenceRequest) -> InferenceResponse:
    """Answers a body in OpenAI's words with vLLM's objects, streamed as lines."""
    answer = await engine.openai(parsed, request.headers)
    if isinstance(answer, bytes):
        return InferenceResponse(answer + b"\n", JSON)
    return InferenceResponse(_lines(answer), JSON_LINES)


async def _whole(engine: Engine, request: GenerationRequest, count: int) -> list[GenerationChunk]:
    """The `count` best choices of a generation that is not streamed, the best first; beams come sorted."""
    async with aclosing(engine.generate(request)) as chunks:
        choices = {chunk.index: chunk async for chunk in chunks}
    assert choices, "the engine ended without an answer"
    ranked = [choices[index] for index in sorted(choices)]
    if len(ranked) > 1 and not request.fields.get("use_beam_search"):
        ranked.sort(key=lambda choice: choice.cumulative_logprob or 0.0, reverse=True)
    return ranked[:count]


async def _stream(engine: Engine, request: LmiRequest, formatter: Formatter) -> AsyncGenerator[bytes]:
    """One item per engine step."""
    formatted = formatter.stream(request)
    async with aclosing(engine.generate(request.generations[0])) as chunks:
        async for chunk in chunks:
            if data := formatted.step(chunk):
                yield data


async def _lines(objects: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """One line per object and a blank one at the end, as LMI ends a stream of vLLM's objects."""
    async with aclosing(objects):
        async for item in objects:
            yield item + b"\n"
        yield b"\n"
