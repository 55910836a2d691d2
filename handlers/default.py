# SPDX-License-Identifier: Apache-2.0
"""The async handler, which serves everything that no custom code claims: parse, generate, format.

`serving.schemas` reads the payload, the engine generates, a formatter writes the answer.
"""

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse
from handlers.user_formatters import UserFormatters
from serving.engine.base import Engine
from serving.schemas import dispatch
from serving.schemas.generation import OpenAIRequest
from serving.schemas.output import Defaults


class DefaultHandler(generation.EngineHandler):
    """LMI's vLLM async service."""

    def __init__(self, engine: Engine, defaults: Defaults, formatters: UserFormatters | None = None):
        super().__init__(engine, formatters)
        self._defaults = defaults

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one payload in LMI's or OpenAI's words."""
        payload, adapter = await self._read(request)
        parsed = dispatch.parse(payload, self._defaults)
        if (formatter := self._output_formatter(adapter, payload)) is not None:
            return await self._formatted(parsed, formatter, request)
        if isinstance(parsed, OpenAIRequest):
            return await generation.openai(self._engine, parsed, request)
        return await generation.answer(self._engine, parsed, request.request_id)
