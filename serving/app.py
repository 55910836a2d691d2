# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: our routes, middlewares and error handlers. vLLM's are attached to it by `cli.py`."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from serving import error_responses
from serving.config.options import ServerSettings
from serving.error_rates import ErrorRates
from serving.listeners import Split
from serving.middleware import ApiKeys, BodyLimit, RequestHeaders
from serving.request_log import RequestLog
from serving.routers import adapters, health, invocations, kserve, management, tgi
from serving.routers.context import Context

ROUTERS = (
    *(health.router, kserve.router, invocations.router, management.router, adapters.router, tgi.router),
    management.versions,
)

_KEEP_BODIES = (
    "serving.",
    "starlette.middleware.cors",
    "prometheus_fastapi_instrumentator.",
    "vllm.entrypoints.serve.middleware",
    "vllm.entrypoints.serve.elastic_ep.middleware",
)
"""Modules whose middlewares do nothing to a stream's pieces. One of anybody else's has to see every piece."""

_ASKED_MOST = frozenset({"/invocations", "/v1/chat/completions", "/v1/completions"})
"""Paths that are looked up first. A route is found by trying one after the other, twice per request."""


def create_app(
    context: Context,
    settings: ServerSettings,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    attach: Callable[[FastAPI], None] | None = None,
    api_keys: Sequence[str] = (),
    upstream_paths: Collection[str] = (),
    logs_requests: bool = True,
    unlogged_paths: Collection[str] = (),
    **options: Any,
) -> FastAPI:
    """An app that answers our routes.

    Args:
        context: the routes' collaborators.
        settings: the server's own settings.
        lifespan: runs around the time the app serves.
        attach: puts further routes on the app, after ours and before the error handlers that speak for all.
        upstream_paths: our routes that are left to those that `attach` brings.
        api_keys: one of these must come with every request but probes; none: the server is open.
        logs_requests: a line in the log per request.
        unlogged_paths: those without one.
        options: for FastAPI itself.
    """
    app = FastAPI(title="LMI Server", version=version("lmi-server"), lifespan=lifespan, **options)
    app.state.lmi = context
    app.state.upstream_paths = frozenset(upstream_paths)
    for router in ROUTERS:
        app.include_router(router)
    app.router.routes[:] = [route for route in app.routes if getattr(route, "path", None) not in upstream_paths]
    if attach is not None:
        attach(app)
    app.router.routes.sort(key=lambda route: getattr(route, "path", None) not in _ASKED_MOST)
    error_responses.register(app)
    managing = (*management.router.routes, *adapters.router.routes, *management.versions.routes)
    app.add_middleware(
        Split,
        management=managing,
        both=(*health.router.routes, *kserve.router.routes),
        inference=invocations.router.routes,
    )
    if api_keys:
        app.add_middleware(ApiKeys, keys=api_keys)
    app.add_middleware(BodyLimit, limit=settings.max_request_size)
    limits = {kind: getattr(settings, f"error_rate_{kind}") for kind in ("wlm", "server", "any")}
    limits = {kind: limit for kind, limit in limits.items() if limit is not None}
    count = ErrorRates(limits, context.health.trip).count if limits else None
    app.add_middleware(RequestHeaders, id_header=settings.request_id_header_key)
    is_direct = all(middleware.cls.__module__.startswith(_KEEP_BODIES) for middleware in app.user_middleware)
    app.add_middleware(RequestLog, is_on=logs_requests, unlogged=unlogged_paths, count=count, is_direct=is_direct)
    return app
