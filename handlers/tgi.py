# SPDX-License-Identifier: Apache-2.0
"""TGI's routes: their own schema and answers, on the same engine."""

from typing import Literal

from handlers import generation
from handlers.base import InferenceRequest, InferenceResponse
from serving.engine.base import Engine
from serving.errors import PayloadError
from serving.schemas import content, tgi
from serving.schemas.parameters import flag


class TgiHandler(generation.EngineHandler):
    """One of TGI's routes.

    Args:
        engine: generates.
        stream: the route streams, never does, or leaves it to the body; then the answer without stream is a list.
    """

    def __init__(self, engine: Engine, stream: bool | Literal["body"]):
        super().__init__(engine)
        self._stream = stream

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one body in TGI's words."""
        payload = content.decode(request.content_type, request.body)
        if self._stream == "body":
            parsed = tgi.parse(payload, flag(payload, "stream"), "tgi_list")
        else:
            parsed = tgi.parse(payload, self._stream, "tgi")
        adapter = parsed.generations[0].model
        if adapter and adapter not in self._engine.loras.sources:
            raise PayloadError(f"adapter `{adapter}` is not loaded; loaded are {sorted(self._engine.loras.sources)}")
        return await generation.answer(self._engine, parsed, request.request_id)
