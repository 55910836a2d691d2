# SPDX-License-Identifier: Apache-2.0
"""The async handler, which serves everything that no custom code claims: parse, generate, format.

`serving.schemas` reads the payload, the engine generates, a formatter writes the answer.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse, adapter_of
from serving.engine.base import Engine
from serving.errors import AdapterNotFound
from serving.formatters.base import JSON, JSON_LINES
from serving.schemas import content, dispatch
from serving.schemas.generation import OpenAIRequest
from serving.schemas.output import Defaults


class DefaultHandler:
    """LMI's vLLM async service."""

    def __init__(self, engine: Engine, defaults: Defaults):
        self._engine = engine
        self._defaults = defaults

    async def start(self) -> None:
        """Nothing to get ready: the engine is."""

    async def close(self) -> None:
        """Nothing to release: the engine has its own owner."""

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one payload in LMI's or OpenAI's words."""
        payload = content.decode(request.content_type, request.body)
        adapter = adapter_of(request, payload)
        if adapter and adapter not in self._engine.adapters:
            raise AdapterNotFound(adapter, self._engine.adapters)
        if adapter:
            payload["model"] = adapter
        parsed = dispatch.parse(payload, self._defaults)
        if isinstance(parsed, OpenAIRequest):
            return await openai(self._engine, parsed, request)
        return await generation.answer(self._engine, parsed, request.request_id)


async def openai(engine: Engine, parsed: OpenAIRequest, request: InferenceRequest) -> InferenceResponse:
    """Answers a body in OpenAI's words with vLLM's objects, streamed as lines."""
    answer = await engine.openai(parsed, request.headers)
    if isinstance(answer, bytes):
        return InferenceResponse(answer + b"\n", JSON)
    return InferenceResponse(_lines(answer), JSON_LINES)


async def _lines(objects: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """One line per object and a blank one at the end, as LMI ends a stream of vLLM's objects."""
    async with aclosing(objects):
        async for item in objects:
            yield item + b"\n"
        yield b"\n"
