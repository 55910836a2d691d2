# SPDX-License-Identifier: Apache-2.0
"""The async handler, which serves everything that no custom code claims: parse, generate, format.

`serving.schemas` reads the payload, the engine generates, a formatter writes the answer.
"""

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse, adapter_of
from serving.engine.base import Engine
from serving.errors import AdapterNotFound
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
            return await generation.openai(self._engine, parsed, request)
        return await generation.answer(self._engine, parsed, request.request_id)
