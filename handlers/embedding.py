# SPDX-License-Identifier: Apache-2.0
"""The embedding handler, for `option.task=text-embedding` and `feature-extraction`: texts to vectors."""

import json

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse, adapter_of
from serving.engine.base import Engine
from serving.errors import AdapterNotFound
from serving.formatters.base import JSON
from serving.schemas import content, embedding
from serving.schemas.generation import OpenAIRequest


class EmbeddingHandler:
    """LMI's embedding service, and OpenAI's bodies on LMI's routes."""

    def __init__(self, engine: Engine):
        self._engine = engine

    async def start(self) -> None:
        """Nothing to get ready: the engine is."""

    async def close(self) -> None:
        """Nothing to release: the engine has its own owner."""

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers with one vector per text, or, where the body says `input`, with OpenAI's object."""
        payload = content.decode(request.content_type, request.body)
        adapter = adapter_of(request, payload)
        if adapter and adapter not in self._engine.adapters:
            raise AdapterNotFound(adapter, self._engine.adapters)
        if adapter:
            payload["model"] = adapter
        if "input" in payload and "inputs" not in payload:
            return await generation.openai(self._engine, OpenAIRequest("embedding", payload), request)
        vectors = await self._engine.embed(embedding.parse(payload))
        return InferenceResponse(json.dumps(vectors).encode() + b"\n", JSON)
