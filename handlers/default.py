# SPDX-License-Identifier: Apache-2.0
"""The async handler, which serves everything that no custom code claims: parse, generate, format.

`serving.schemas` reads the payload, the engine generates, a formatter writes the answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace

from handlers.base import InferenceRequest, InferenceResponse
from serving.engine.base import Engine
from serving.errors import AdapterNotFound, PayloadError
from serving.formatters.base import JSON, JSON_LINES, Formatter
from serving.formatters.lmi import LmiFormatter
from serving.schemas import content, dispatch
from serving.schemas.generation import GenerationChunk, GenerationRequest, LmiRequest, OpenAIRequest

ADAPTER_HEADER = "x-amzn-sagemaker-adapter-identifier"


class DefaultHandler:
    """LMI's vLLM async service."""

    def __init__(self, engine: Engine, formatter: Formatter | None = None):
        self._engine = engine
        self._formatter = formatter or LmiFormatter()

    async def start(self) -> None:
        """Nothing to get ready: the engine is."""

    async def close(self) -> None:
        """Nothing to release: the engine has its own owner."""

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one payload in LMI's or OpenAI's words."""
        payload = content.decode(request.content_type, request.body)
        adapter = self._adapter(request, payload.pop("adapters", None))
        if adapter is not None:
            payload["model"] = adapter
        parsed = dispatch.parse(payload)
        if isinstance(parsed, OpenAIRequest):
            return await self._openai(parsed, request)
        generations = [replace(one, request_id=request.request_id) for one in parsed.generations]
        parsed = replace(parsed, generations=generations)
        if parsed.stream:
            return InferenceResponse(self._stream(parsed), self._formatter.stream_media_type)
        answers = await _gather([self._whole(one) for one in parsed.generations])
        return InferenceResponse(self._formatter.whole(parsed, answers), self._formatter.media_type)

    async def _whole(self, request: GenerationRequest) -> GenerationChunk:
        """The first choice of a generation that is not streamed."""
        first: GenerationChunk | None = None
        async with aclosing(self._engine.generate(request)) as chunks:
            async for chunk in chunks:
                if chunk.index == 0:
                    first = chunk
        assert first is not None, "the engine ended without an answer"
        return first

    async def _stream(self, request: LmiRequest) -> AsyncGenerator[bytes]:
        formatter = self._formatter.stream(request)
        async with aclosing(self._engine.generate(request.generations[0])) as chunks:
            async for chunk in chunks:
                if data := formatter.step(chunk):
                    yield data

    async def _openai(self, request: OpenAIRequest, raw: InferenceRequest) -> InferenceResponse:
        answer = await self._engine.openai(request, raw.headers)
        if isinstance(answer, bytes):
            return InferenceResponse(answer + b"\n", JSON)
        return InferenceResponse(_lines(answer), JSON_LINES)

    def _adapter(self, request: InferenceRequest, from_body: object) -> str | None:
        """The adapter this request names, by header or body; the header wins, an empty name is the base model."""
        if isinstance(from_body, list) and len(from_body) == 1:
            from_body = from_body[0]
        if from_body is not None and not isinstance(from_body, str):
            raise PayloadError("Input parsing failed: adapters must be the name of one adapter")
        name = request.headers.get(ADAPTER_HEADER) or from_body
        if name and name not in self._engine.adapters:
            raise AdapterNotFound(name, self._engine.adapters)
        return name or None


async def _lines(objects: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """One line per object and a blank one at the end, as LMI ends a stream of vLLM's objects."""
    async with aclosing(objects):
        async for item in objects:
            yield item + b"\n"
        yield b"\n"


async def _gather(answers: Sequence[Coroutine[None, None, GenerationChunk]]) -> list[GenerationChunk]:
    """All answers, in order; the first failure cancels the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer) for answer in answers]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
