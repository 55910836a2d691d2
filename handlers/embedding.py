# SPDX-License-Identifier: Apache-2.0
"""The embedding handler, for `option.task=text-embedding` and `feature-extraction`: texts to vectors."""

import json

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse
from serving.formatters.base import JSON
from serving.schemas import embedding
from serving.schemas.generation import OpenAIRequest


class EmbeddingHandler(generation.EngineHandler):
    """LMI's embedding service, and OpenAI's bodies on LMI's routes; of the user's formatters those for input."""

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers with one vector per text, or, where the body says `input`, with OpenAI's object."""
        payload, _ = await self._read(request)
        if "input" in payload and "inputs" not in payload:
            return await generation.openai(self._engine, OpenAIRequest("embedding", payload), request)
        vectors = await self._engine.embed(embedding.parse(payload))
        return InferenceResponse(json.dumps(vectors).encode() + b"\n", JSON)
