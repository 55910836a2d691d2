# SPDX-License-Identifier: Apache-2.0
"""What the built-in handlers share: a typed request to the engine, and its chunks to an answer."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from handlers.base import InferenceRequest, InferenceResponse, adapter_of
from serving.engine.base import Engine
from serving.errors import AdapterNotFound
from serving.formatters.base import JSON, JSON_LINES, Formatter
from serving.formatters.registry import FORMATS
from serving.schemas import content
from serving.schemas.generation import GenerationChunk, GenerationRequest, LmiRequest, OpenAIRequest

_T = TypeVar("_T")


class EngineHandler:
    """A handler that has nothing to get ready and nothing to release: the engine is ready, and has its own owner."""

    def __init__(self, engine: Engine):
        self._engine = engine

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""


def payload_of(engine: Engine, request: InferenceRequest) -> dict[str, Any]:
    """The decoded body; where the request names an adapter, that is its `model`.

    Raises:
        PayloadError: the body cannot be read.
        AdapterNotFound: the adapter is not loaded.
    """
    payload = content.decode(request.content_type, request.body)
    adapter = adapter_of(request, payload)
    if adapter and adapter not in engine.adapters:
        raise AdapterNotFound(adapter, engine.adapters)
    if adapter:
        payload["model"] = adapter
    return payload


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
    answers = await _gather([_whole(engine, one, request.num_sequences) for one in generations])
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


async def _gather(answers: Sequence[Coroutine[None, None, _T]]) -> list[_T]:
    """All answers, in order; the first failure cancels the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer) for answer in answers]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def _lines(objects: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """One line per object and a blank one at the end, as LMI ends a stream of vLLM's objects."""
    async with aclosing(objects):
        async for item in objects:
            yield item + b"\n"
        yield b"\n"
