# SPDX-License-Identifier: Apache-2.0
"""The rolling-batch handler: LMI's other mode, with its payload defaults and answers, on the same engine."""

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse, adapter_of
from handlers.default import openai
from serving.engine.base import Engine
from serving.errors import PayloadError
from serving.formatters.base import Formatter
from serving.formatters.rolling_batch import RollingBatchFormatter
from serving.schemas import content, dispatch
from serving.schemas.generation import OpenAIRequest


class RollingBatchHandler:
    """LMI's rolling batch.

    Args:
        engine: generates.
        has_adapters: LoRA is on; otherwise a request's adapter is ignored, as in LMI.
        formatter: writes the answers.
    """

    def __init__(self, engine: Engine, has_adapters: bool, formatter: Formatter | None = None):
        self._engine = engine
        self._has_adapters = has_adapters
        self._formatter = formatter or RollingBatchFormatter()

    async def start(self) -> None:
        """Nothing to get ready: the engine is."""

    async def close(self) -> None:
        """Nothing to release: the engine has its own owner."""

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one payload in LMI's words, or a chat in OpenAI's."""
        payload = content.decode(request.content_type, request.body)
        adapter = adapter_of(request, payload) if self._has_adapters else ""
        if adapter and adapter not in self._engine.adapters:
            raise PayloadError(f"Input parsing failed: Adapter {adapter} is not registered")
        # LMI reads no model name here: there is one model, and adapters have their own field.
        payload = {name: value for name, value in payload.items() if name not in ("model", "adapters")}
        if adapter:
            payload["model"] = adapter
        parsed = dispatch.parse(payload, dispatch.ROLLING_BATCH)
        if isinstance(parsed, OpenAIRequest):
            return await openai(self._engine, parsed, request)
        return await generation.answer(self._engine, parsed, request.request_id, self._formatter)
