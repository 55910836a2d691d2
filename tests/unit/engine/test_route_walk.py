# SPDX-License-Identifier: Apache-2.0
"""Our app has every route of `vllm serve`, and ours come first."""

from argparse import Namespace
from collections import Counter

import pytest
from fastapi import FastAPI
from starlette.datastructures import State
from vllm.entrypoints.launchers.app import build_app

from handlers.default import DefaultHandler
from serving.app import ROUTERS, create_app
from serving.config.options import ServerSettings
from serving.engine import vllm_app
from serving.engine.engine_args import namespace
from serving.health import Health
from serving.routers.context import Context
from tests.fakes import FakeEngine

pytestmark = pytest.mark.vllm

TASKS = ("generate",)


@pytest.fixture
def args() -> Namespace:
    return namespace({"model": "m", "enable_tokenizer_info_endpoint": True, "enable_scale_out": True})


@pytest.fixture
def served(args: Namespace) -> FastAPI:
    engine = FakeEngine()
    state = State({"args": args})
    return create_app(
        Context("test", DefaultHandler(engine), Health(engine)),
        ServerSettings(),
        attach=lambda app: vllm_app.attach(app, state, TASKS, None),
        **vllm_app.fastapi_options(args),
    )


def routes(app: FastAPI) -> set[tuple[str, str]]:
    """Path and method of everything the app answers."""
    return {(route.path, method) for route in app.routes for method in getattr(route, "methods", None) or {"mount"}}


def test_every_route_of_vllm(args: Namespace, served: FastAPI) -> None:
    upstream = routes(build_app(args, TASKS, None))
    assert {("/v1/chat/completions", "POST"), ("/v1/completions", "POST"), ("/metrics", "GET")} <= upstream
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


def test_log_levels_survive(served: FastAPI) -> None:
    """Attaching imports a package that silences the root logger."""
    import logging

    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    try:
        with vllm_app._kept_log_levels():
            root.setLevel(logging.ERROR)
        assert root.level == logging.INFO
    finally:
        root.setLevel(before)
