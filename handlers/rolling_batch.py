# SPDX-License-Identifier: Apache-2.0
"""The rolling-batch handler: LMI's other mode, with its payload defaults and answers, on the same engine."""

from typing import Any

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse, adapter_of
from handlers.user_formatters import UserFormatters
from serving.engine.base import Engine
from serving.errors import PayloadError
from serving.formatters import older_chat
from serving.schemas import bedrock, dispatch
from serving.schemas.generation import LmiRequest, OpenAIRequest
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
        formatters: the user's.
    """

    def __init__(
        self,
        engine: Engine,
        defaults: Defaults,
        has_adapters: bool,
        reads_bedrock: bool,
        formatters: UserFormatters | None = None,
    ):
        super().__init__(engine, formatters)
        self._defaults = defaults
        self._has_adapters = has_adapters
        self._reads_bedrock = reads_bedrock

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one payload in LMI's words, or a chat in OpenAI's."""
        payload, adapter = await self._read(request)
        # LMI reads no model name here: there is one model, and adapters have their own field.
        ignored = ("adapters",) if adapter else ("model", "adapters")
        parsed = self._parse({name: value for name, value in payload.items() if name not in ignored}, request)
        if (formatter := self._output_formatter(adapter, payload)) is not None:
            if isinstance(parsed, OpenAIRequest):
                parsed = OpenAIRequest("chat", self._older_chat(parsed)[0])
            return await self._formatted(parsed, formatter, request)
        if isinstance(parsed, OpenAIRequest):
            return await self._chat(parsed, request)
        return await generation.answer(self._engine, parsed, request.request_id)

    def _parse(self, payload: dict[str, Any], request: InferenceRequest) -> LmiRequest | OpenAIRequest:
        if self._reads_bedrock and "prompt" in payload and "messages" not in payload:
            return bedrock.parse(payload, request.headers.get(_FORWARDED_API) == _STREAMING_API)
        return dispatch.parse(payload, self._defaults)

    def _adapter_of(self, request: InferenceRequest, payload: dict[str, Any]) -> str:
        adapter = adapter_of(request, payload) if self._has_adapters else ""
        if adapter and adapter not in self._engine.loras.sources:
            raise PayloadError(f"Input parsing failed: Adapter {adapter} is not registered")
        return adapter

    def _speaker(self, adapter: str, payload: Any) -> str:
        return adapter

    def _older_chat(self, parsed: OpenAIRequest) -> tuple[dict[str, Any], str]:
        """The body for vLLM, and the name of the answer's format."""
        return older_chat.request(parsed.body, self._defaults.output_formatter, self._engine.facts.max_model_len)

    async def _chat(self, parsed: OpenAIRequest, request: InferenceRequest) -> InferenceResponse:
        """LMI's older chat objects, made of vLLM's."""
        given = parsed.body.get("stop_token_ids")
        stop_ids = given if isinstance(given, list) else []
        body, form = self._older_chat(parsed)
        answer = await self._engine.openai(OpenAIRequest("chat", body), request.headers)
        if isinstance(answer, bytes):
            return InferenceResponse(older_chat.whole(answer, stop_ids), older_chat.MEDIA_TYPES[form])
        framing = older_chat.FRAMINGS[form]
        return InferenceResponse(
            older_chat.stream(answer, framing, stop_ids), older_chat.MEDIA_TYPES[form], framing=framing
        )
