# SPDX-License-Identifier: Apache-2.0
"""Our app has every route of `vllm serve`, and ours come first."""

import subprocess
import sys
from argparse import Namespace
from collections import Counter

import pytest
from fastapi import FastAPI
from starlette.datastructures import State
from starlette.testclient import TestClient
from vllm.entrypoints.launchers.app import build_app

from serving.app import ROUTERS, create_app
from serving.config.options import ServerSettings
from serving.engine import vllm_app
from serving.engine.engine_args import namespace
from serving.routers import waiting
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
