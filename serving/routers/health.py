# SPDX-License-Identifier: Apache-2.0
"""`/ping` as LMI and SageMaker ask for it, `/health` as vLLM's clients do, and probes."""

import json

from fastapi import APIRouter, Request
from starlette.responses import Response

from serving.health import State
from serving.routers.context import context
from serving.routers.paging import pretty

router = APIRouter(tags=["health"])

_PING = {
    State.READY: (200, "Healthy"),
    State.DRAINING: (503, "Unhealthy"),
    State.TRIPPED: (503, "Healthy"),
    State.DEAD: (500, "FAILED"),
}


@router.api_route("/ping", methods=["GET", "POST", "HEAD"], summary="Can this server take requests?")
async def ping(request: Request) -> Response:
    """200 when it can, 503 while it shuts down or had too many errors, 500 once the engine is gone."""
    status, word = _PING[context(request).health.state]
    body = json.dumps({context(request).model_name: {"status": word}}, indent=2) + "\n"
    return Response(body, status, media_type="application/json")


@router.get("/live", summary="Is the process there?")
@router.get("/startup", summary="Has it started? The port opens once it has")
async def live() -> Response:
    """200 whenever it can answer at all."""
    return pretty({"status": "alive"})


@router.get("/ready", summary="Should it get requests now?")
async def ready(request: Request) -> Response:
    """200, or 503 with the reasons: shutting down, too many errors, an engine that is gone or hangs."""
    about = context(request)
    reasons = about.health.reasons(about.settings.stall_timeout)
    answer = pretty({"status": "not ready" if reasons else "ready", **({"reasons": reasons} if reasons else {})})
    answer.status_code = 503 if reasons else 200
    return answer


@router.options("/", include_in_schema=False)
async def options() -> Response:
    """LMI's answer."""
    return Response("{}\n", media_type="application/json")


@router.get("/health", summary="The same with an empty body")
async def health(request: Request) -> Response:
    """200 when the server can take requests, 503 otherwise."""
    return Response(status_code=200 if context(request).health.state is State.READY else 503)
