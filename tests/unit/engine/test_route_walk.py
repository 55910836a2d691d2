# SPDX-License-Identifier: Apache-2.0
"""Our app has every route of `vllm serve`, and ours come first."""

import asyncio
import re
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from dataclasses import replace

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIWebSocketRoute
from starlette.datastructures import State
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Receive, Scope, Send
from vllm.entrypoints.launchers.app import build_app

from serving.app import ROUTERS, create_app
from serving.config.options import ServerSettings
from serving.engine import vllm_app
from serving.engine.engine_args import namespace
from serving.listeners import Listener, Marked
from serving.routers import adapters, health, kserve, management, waiting
from tests.conftest import client_of, context_of
from tests.fakes import FakeEngine

pytestmark = pytest.mark.vllm

TASKS = [("generate",), ("embed", "token_embed"), ("transcription", "generate"), ("realtime", "generate")]


@pytest.fixture(params=TASKS, ids="-".join)
def tasks(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What the engine supports, which decides the routes."""
    return request.param


@pytest.fixture
def args() -> Namespace:
    return namespace({"model": "m", "enable_tokenizer_info_endpoint": True, "enable_scale_out": True})


@pytest.fixture
def served(args: Namespace, tasks: tuple[str, ...]) -> FastAPI:
    engine = FakeEngine()
    state = State({"args": args})
    return create_app(
        context_of(engine),
        ServerSettings(),
        attach=lambda app: vllm_app.attach(app, state, tasks, None),
        **vllm_app.fastapi_options(args),
    )


async def test_invocations_of_upstream(args: Namespace) -> None:
    """`option.invocations_api=openai` leaves the path to vLLM's route, and its errors to vLLM's envelope."""
    engine = FakeEngine()
    state = State({"args": args, "openai_serving_completion": None, "openai_serving_chat": None})
    app = create_app(
        context_of(engine),
        ServerSettings(),
        attach=lambda app: vllm_app.attach(app, state, ("generate",), None),
        upstream_paths=["/invocations"],
    )
    assert len([route for route in app.routes if getattr(route, "path", "") == "/invocations"]) == 1
    async with client_of(app) as client:
        method = await client.put("/invocations")
        ours = await client.post("/predictions/test", json={"inputs": "a"})
    assert method.json()["error"]["code"] == 405
    assert ours.status_code == 200


def routes(app: FastAPI) -> set[tuple[str, str]]:
    """Path and method of everything the app answers."""
    return {(route.path, method) for route in app.routes for method in getattr(route, "methods", None) or {"mount"}}


def test_every_route_of_vllm(args: Namespace, served: FastAPI, tasks: tuple[str, ...]) -> None:
    upstream = routes(build_app(args, tasks, None))
    assert {("/v1/models", "GET"), ("/metrics", "GET")} <= upstream
    assert (("/v1/chat/completions", "POST") in upstream) == ("generate" in tasks)
    assert upstream - routes(served) == set()


def test_ours_win(served: FastAPI) -> None:
    owners = {
        (route.path, method): route.endpoint.__module__
        for route in reversed(served.routes)
        for method in getattr(route, "methods", None) or ()
    }
    assert owners["/ping", "GET"] == owners["/health", "GET"] == "serving.routers.health"
    assert owners["/invocations", "POST"] == "serving.routers.invocations"
    assert owners["/v1/models", "GET"].startswith("vllm.")


def test_none_of_ours_twice(served: FastAPI) -> None:
    seen = Counter((route.path, method) for route in served.routes for method in getattr(route, "methods", None) or ())
    ours = [(route.path, method) for router in ROUTERS for route in router.routes for method in route.methods]
    assert {key: seen[key] for key in ours} == dict.fromkeys(ours, 1)


OPEN = {"/ping", "/health", "/live", "/ready", "/startup", "/v2/health/live", "/v2/health/ready", "/metrics"}


@pytest.fixture
def guarded(args: Namespace, tasks: tuple[str, ...]) -> tuple[FastAPI, FakeEngine, list[str]]:
    """The whole app with a key, its engine, and the paths of vLLM's routes that a request got to."""
    engine, state = FakeEngine(), State({"args": args})
    app = create_app(
        replace(context_of(engine), reload=lambda: asyncio.sleep(0)),
        ServerSettings(),
        attach=lambda app: vllm_app.attach(app, state, tasks, None),
        api_keys=["k"],
        **vllm_app.fastapi_options(args),
    )
    reached: list[str] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await Response()(scope, receive, send)

    for route in app.routes:
        route.app = noted  # type: ignore[attr-defined]
    return app, engine, reached


def concrete(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "test", path)


async def test_every_route_needs_the_key(guarded: tuple[FastAPI, FakeEngine, list[str]]) -> None:
    """Ours and vLLM's, mounts and documentation among them, by any method, and with a wrong key, too."""
    app, _, reached = guarded
    paths = {route.path for route in app.routes}  # type: ignore[attr-defined]
    assert {"/invocations", "/v1/models", "/metrics", "/openapi.json", "/models/{model}/reload", *OPEN} <= paths
    async with client_of(app) as client:
        for path in sorted({*map(concrete, paths), *(f"{concrete(path)}/below" for path in paths), "/nope"}):
            for method in ("GET", "POST", "DELETE", "OPTIONS"):
                answer = await client.request(method, path)
                assert (answer.status_code == 401) == (path not in OPEN), (method, path)
            wrong = await client.post(path, headers={"authorization": "Bearer x"})
            assert (wrong.status_code == 401) == (path not in OPEN), path
    assert set(reached) <= OPEN
    reached.clear()
    async with client_of(app) as client:
        client.headers["authorization"] = "Bearer k"
        for route in app.routes:
            method = next(iter(getattr(route, "methods", None) or ["GET"]))
            await client.request(method, concrete(route.path))  # type: ignore[attr-defined]
    assert {concrete(path) for path in paths} - set(reached) - sockets(app) == set()


def sockets(app: FastAPI) -> set[str]:
    return {route.path for route in app.routes if isinstance(route, APIWebSocketRoute | WebSocketRoute)}


@pytest.mark.parametrize("tasks", [("realtime", "generate")], indirect=True)
async def test_websockets_need_the_key(guarded: tuple[FastAPI, FakeEngine, list[str]]) -> None:
    app, _, reached = guarded
    assert sockets(app) == {"/v1/realtime"}
    client = TestClient(app)
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/realtime"):
        pass
    assert (refused.value.status_code, reached) == (401, [])


async def test_nothing_reaches_the_engine_without_the_key(served_with_key: tuple[FastAPI, FakeEngine]) -> None:
    app, engine = served_with_key
    body = {"inputs": "hello"}
    paths = ["/invocations", "/predictions/test", "/models/test/invoke", "/generate", "/generate_stream", "/"]
    async with client_of(app) as client:
        for path in paths:
            assert (await client.post(path, json=body)).status_code == 401
        assert engine.requests == []
        for path in paths:
            assert (await client.post(path, json=body, headers={"authorization": "Bearer k"})).status_code == 200
    assert len(engine.requests) == len(paths)


@pytest.fixture
def served_with_key(args: Namespace) -> tuple[FastAPI, FakeEngine]:
    """The whole app with a key, and with an origin whose pages may ask."""
    args.allowed_origins = ["https://a"]
    engine, state = FakeEngine(), State({"args": args})
    app = create_app(
        context_of(engine),
        ServerSettings(),
        attach=lambda app: vllm_app.attach(app, state, ("generate",), None),
        api_keys=["k"],
    )
    return app, engine


async def test_pages_of_other_origins(served_with_key: tuple[FastAPI, FakeEngine]) -> None:
    """vLLM's middleware answers browsers' questions, without a key; a plain OPTIONS is LMI's, with one."""
    asks = {"origin": "https://a", "access-control-request-method": "POST"}
    async with client_of(served_with_key[0]) as client:
        for path in ("/invocations", "/predictions/test", "/v1/chat/completions"):
            answer = await client.options(path, headers=asks)
            assert (answer.status_code, answer.text) == (200, "OK")
            assert answer.headers["access-control-allow-origin"] == "https://a"
        plain = await client.options("/predictions/test", headers={"authorization": "Bearer k"})
    assert (plain.status_code, plain.text) == (200, "{}\n")


async def test_listeners_of_the_whole_app(guarded: tuple[FastAPI, FakeEngine, list[str]]) -> None:
    """By management's there are management, adapters and health; by inference's everything but the first two."""
    app, _, reached = guarded

    async def there(listener: Listener) -> set[str]:
        reached.clear()
        async with client_of(Marked(app, listener)) as client:
            client.headers["authorization"] = "Bearer k"
            for route in app.routes:
                method = next(iter(getattr(route, "methods", None) or ["GET"]))
                await client.request(method, concrete(route.path))  # type: ignore[attr-defined]
        return set(reached)

    def of(*routers: APIRouter) -> set[str]:
        return {concrete(route.path) for router in routers for route in router.routes}  # type: ignore[attr-defined]

    everything = {concrete(route.path) for route in app.routes} - sockets(app)  # type: ignore[attr-defined]
    managing = of(management.router, management.versions, adapters.router)
    assert {"/models", "/models/test/reload", "/adapters/test", "/v1/load_lora_adapter"} <= managing
    assert await there(Listener.INFERENCE) == everything - managing
    assert await there(Listener.MANAGEMENT) == (managing | of(health.router, kserve.router))


def test_log_levels_survive() -> None:
    """vLLM's routers import a package that silences the root logger; attaching them leaves it as it was."""
    script = """
import logging
logging.getLogger().setLevel(logging.INFO)
from fastapi import FastAPI
from starlette.datastructures import State
from serving.engine import vllm_app
from serving.engine.engine_args import namespace
from serving.routers import waiting
vllm_app.attach(FastAPI(), State({"args": namespace({"model": "m"})}), ("generate",), None)
import model_hosting_container_standards
assert logging.getLogger().level == logging.INFO, logging.getLogger().level
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_routes_before_the_engine_starts(args: Namespace, tasks: tuple[str, ...]) -> None:
    """Beside a custom handler every route that generates says that the engine is starting, and starts it."""
    begun: list[int] = []
    app = FastAPI()
    waiting.attach(app, begin=lambda: begun.append(1), reason=str)
    paths = [
        route.path for route in build_app(args, tasks, None).routes if "POST" in (getattr(route, "methods", None) or ())
    ]
    others = {"/invocations", "/ping", "/scale_elastic_ep", "/is_scaling_elastic_ep"}
    expected = [path for path in paths if path not in others]
    with TestClient(app) as client:
        assert {path: client.post(path).status_code for path in expected} == dict.fromkeys(expected, 503)
    assert len(begun) == len(expected) > 0
