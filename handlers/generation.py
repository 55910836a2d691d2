# SPDX-License-Identifier: Apache-2.0
"""What the built-in handlers share: a typed request to the engine, and its chunks to an answer."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace

from handlers.base import InferenceResponse
from serving.engine.base import Engine
from serving.formatters.base import Formatter
from serving.schemas.generation import GenerationChunk, GenerationRequest, LmiRequest


async def answer(engine: Engine, request: LmiRequest, request_id: str, formatter: Formatter) -> InferenceResponse:
    """Generates for every prompt of `request` and formats the answer; a stream is only started.

    Raises:
        ServingError: the engine refused or failed.
    """
    generations = [replace(one, request_id=request_id) for one in request.generations]
    request = replace(request, generations=generations)
    if request.stream:
        return InferenceResponse(_stream(engine, request, formatter), formatter.stream_media_type)
    answers = await _gather([_whole(engine, one) for one in generations])
    return InferenceResponse(formatter.whole(request, answers), formatter.media_type)


async def _whole(engine: Engine, request: GenerationRequest) -> GenerationChunk:
    """The first choice of a generation that is not streamed."""
    first: GenerationChunk | None = None
    async with aclosing(engine.generate(request)) as chunks:
        async for chunk in chunks:
            if chunk.index == 0:
                first = chunk
    assert first is not None, "the engine ended without an answer"
    return first


async def _stream(engine: Engine, request: LmiRequest, formatter: Formatter) -> AsyncGenerator[bytes]:
    """One item per engine step."""
    formatted = formatter.stream(request)
    async with aclosing(engine.generate(request.generations[0])) as chunks:
        async for chunk in chunks:
            if data := formatted.step(chunk):
                yield data


async def _gather(answers: Sequence[Coroutine[None, None, GenerationChunk]]) -> list[GenerationChunk]:
    """All answers, in order; the first failure cancels the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer) for answer in answers]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
