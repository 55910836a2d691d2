# SPDX-License-Identifier: Apache-2.0
"""`/ping` as LMI and SageMaker ask for it, `/health` as vLLM's clients do. `/metrics` is vLLM's."""

import json

from fastapi import APIRouter, Request
from starlette.responses import Response

from serving.health import State
from serving.routers.context import context

router = APIRouter(tags=["health"])

_PING = {State.READY: (200, "Healthy"), State.DRAINING: (503, "Unhealthy"), State.DEAD: (500, "FAILED")}


@router.api_route("/ping", methods=["GET", "POST", "HEAD"], summary="Can this server take requests?")
async def ping(request: Request) -> Response:
    """200 when it can, 503 while it shuts down, 500 once the engine is gone."""
    status, word = _PING[context(request).health.state]
    body = json.dumps({context(request).model_name: {"status": word}}, indent=2) + "\n"
    return Response(body, status, media_type="application/json")


@router.get("/health", summary="The same with an empty body")
async def health(request: Request) -> Response:
    """200 when the server can take requests, 503 otherwise."""
    return Response(status_code=200 if context(request).health.state is State.READY else 503)
