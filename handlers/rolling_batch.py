# SPDX-License-Identifier: Apache-2.0
"""The rolling-batch handler: LMI's other mode, with its payload defaults and answers, on the same engine."""

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse, adapter_of
from serving.engine.base import Engine
from serving.errors import PayloadError
from serving.formatters import older_chat
from serving.schemas import bedrock, content, dispatch
from serving.schemas.generation import OpenAIRequest
from serving.schemas.output import Defaults

_FORWARDED_API = "x-amzn-sagemaker-forwarded-api"
_STREAMING_API = "InvokeEndpointWithResponseStream"


class RollingBatchHandler(generation.EngineHandler):
    """LMI's rolling batch.

    Args:
        engine: generates.
        defaults: what the configuration says about payloads.
        has_adapters: LoRA is on; otherwise a request's adapter is ignored, as in LMI.
        reads_bedrock: payloads with `prompt` follow LMI's third-party schema; otherwise nothing reads them.
    """

    def __init__(self, engine: Engine, defaults: Defaults, has_adapters: bool, reads_bedrock: bool):
        super().__init__(engine)
        self._defaults = defaults
        self._has_adapters = has_adapters
        self._reads_bedrock = reads_bedrock

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
        if self._reads_bedrock and "prompt" in payload and "messages" not in payload:
            stream = request.headers.get(_FORWARDED_API) == _STREAMING_API
            return await generation.answer(self._engine, bedrock.parse(payload, stream), request.request_id)
        parsed = dispatch.parse(payload, self._defaults)
        if isinstance(parsed, OpenAIRequest):
            return await self._chat(parsed, request)
        return await generation.answer(self._engine, parsed, request.request_id)

    async def _chat(self, parsed: OpenAIRequest, request: InferenceRequest) -> InferenceResponse:
        """LMI's older chat objects, made of vLLM's."""
        given = parsed.body.get("stop_token_ids")
        stop_ids = given if isinstance(given, list) else []
        limit = self._engine.facts.max_model_len
        body, form = older_chat.request(parsed.body, self._defaults.output_formatter, limit)
        answer = await self._engine.openai(OpenAIRequest("chat", body), request.headers)
        if isinstance(answer, bytes):
            return InferenceResponse(older_chat.whole(answer, stop_ids), older_chat.MEDIA_TYPES[form])
        framing = older_chat.FRAMINGS[form]
        return InferenceResponse(
            older_chat.stream(answer, framing, stop_ids), older_chat.MEDIA_TYPES[form], framing=framing
        )
