# SPDX-License-Identifier: Apache-2.0
"""The async handler, which serves everything that no custom code claims: parse, generate, format.

`serving.schemas` reads the payload, the engine generates, a formatter writes the answer.
"""

import json
from typing import Any

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse, adapters_of
from handlers.user_formatters import UserFormatters
from serving.engine.base import Engine
from serving.formatters.base import JSON
from serving.schemas import dispatch
from serving.schemas.generation import OpenAIRequest
from serving.schemas.output import Defaults
from serving.sessions import SESSION_ID, Sessions


class DefaultHandler(generation.EngineHandler):
    """LMI's vLLM async service."""

    def __init__(
        self,
        engine: Engine,
        defaults: Defaults,
        formatters: UserFormatters | None = None,
        sessions: Sessions | None = None,
    ):
        super().__init__(engine, formatters)
        self._defaults = defaults
        self._sessions = sessions or Sessions(None)

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one payload in LMI's or OpenAI's words."""
        if (session_id := request.headers.get(SESSION_ID)) is not None:
            self._sessions.check(session_id)
        payload, adapter = await self._read(request)
        if "requestType" in payload and dispatch.schema_of(payload, self._defaults) is None:
            body, headers = await self._sessions.answer(payload["requestType"], session_id)
            return InferenceResponse(json.dumps(body).encode() + b"\n", JSON, headers=headers)
        parsed = dispatch.parse(payload, self._defaults)
        if (formatter := self._output_formatter(adapter, payload)) is not None:
            return await self._formatted(parsed, formatter, request)
        if isinstance(parsed, OpenAIRequest):
            return await generation.openai(self._engine, parsed, request)
        return await generation.answer(self._engine, parsed, request.request_id)

    def _adapter_of(self, request: InferenceRequest, payload: dict[str, Any]) -> str:
        """As for the other handlers; a name for each prompt stays in the payload, whose schema pairs them."""
        names = adapters_of(request, payload) if self._formatters.is_empty else []
        if not names:
            return super()._adapter_of(request, payload)
        for name in names:
            self._check_adapter(name)
        return ""
