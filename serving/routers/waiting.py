# SPDX-License-Identifier: Apache-2.0
"""vLLM's routes while its engine is not started: 503 with `Retry-After`, and the first request to generate starts it.

Only beside a custom handler, whose own requests need no engine (`handlers/on_demand.py`).
"""

from collections.abc import Callable

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

GENERATING = (
    *("/v1/{path:path}", "/inference/{path:path}", "/cohere/{path:path}", "/generative_scoring"),
    *("/tokenize", "/detokenize", "/pooling", "/classify", "/score", "/rerank", "/v2/rerank", "/v2/embed"),
)
"""Paths whose requests (POST) need the engine."""


def attach(app: FastAPI, begin: Callable[[], None], reason: Callable[[], str]) -> None:
    """Puts the routes on `app`.

    Args:
        app: the app that answers until the engine is there.
        begin: starts the engine, unless that was done before.
        reason: why it did not start; empty while that may still happen.
    """

    async def generating(request: Request) -> Response:
        """Any request that needs the engine."""
        begin()
        return _refused(reason()) or _unavailable("the engine is starting; try again")

    async def models(request: Request) -> Response:
        """The list of models, which only the engine knows."""
        text = "the engine is not started; it starts with the first request that needs it"
        return _refused(reason()) or _unavailable(text)

    async def metrics(request: Request) -> Response:
        """Our own metrics; vLLM's join them later."""
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    for path in GENERATING:
        app.add_api_route(path, generating, methods=["POST"], include_in_schema=False)
    app.add_api_route("/v1/models", models, methods=["GET"], include_in_schema=False)
    app.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False)


def _refused(reason: str) -> Response | None:
    return _unavailable(f"the default handler is not available: {reason}") if reason else None


def _unavailable(text: str) -> Response:
    error = {"message": text, "type": "ServiceUnavailableError", "param": None, "code": 503}
    return JSONResponse({"error": error}, 503)
