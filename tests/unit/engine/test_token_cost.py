# SPDX-License-Identifier: Apache-2.0
"""What a streamed token costs in the server's process, as a count of instructions beside `vllm serve`'s own app."""

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.load import ROUTES
from serving import demo
from serving.app import create_app
from serving.config.limits import Limits
from serving.config.options import ServerSettings
from serving.engine import vllm_app
from serving.engine.engine_args import namespace
from serving.engine.vllm_engine import VllmEngine
from serving.ledger import Ledger
from tests.conftest import context_of
from tests.instant_core import InstantCore
from tests.instructions import instructions

pytestmark = pytest.mark.vllm
NUM_STREAMS = 32
FEW, MANY = 4, 20
"""Tokens per stream; the difference of the two costs is that of the tokens alone."""
MOST_FOR_LMI = 0.5
"""Of what `/v1/completions` with log-probabilities takes upstream."""
MOST_FOR_UPSTREAMS = 1.08
"""Of what the same route takes upstream: the price of the gate and of the log."""
TASKS = ("generate",)
LIMITS = Limits(num_in_flight=1000, first_output_s=100.0, gap_s=100.0, start_s=100.0)


def arguments() -> Any:
    return namespace({"model": str(demo.MODEL_DIR), "max_model_len": 2048, "kv_cache_memory_bytes": 2**25})


async def ours() -> FastAPI:
    engine = VllmEngine(arguments(), "demo", LIMITS, Ledger(), tool_fallback=True)
    await engine.start()
    attach = partial(vllm_app.attach, state=engine.state, tasks=TASKS, model_config=engine.model_config)
    return create_app(context_of(engine), ServerSettings(), attach=attach)


async def upstreams() -> FastAPI:
    args = arguments()
    llm = AsyncLLM.from_vllm_config(AsyncEngineArgs.from_cli_args(args).create_engine_config())
    app = build_app(args, TASKS, llm.model_config)
    await init_app_state(llm, app.state, args, TASKS)
    return app


async def ask(app: FastAPI, route: str, num_tokens: int, stream: bool) -> None:
    """One request, as an HTTP server makes it of the client's bytes."""
    path = ROUTES[route].path
    body = json.dumps(ROUTES[route].body("words that stand for a prompt", num_tokens, stream)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
             "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"",
             "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}  # fmt: skip
    pieces, messages, is_over = [], [{"type": "http.request", "body": body, "more_body": False}], asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await is_over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200
        pieces.append(message.get("body", b""))

    await app(scope, receive, send)
    assert not stream or len(pieces) >= num_tokens


async def total(app: FastAPI, route: str, num_tokens: int, stream: bool = True) -> int:
    """Instructions for all streams."""

    async def work() -> None:
        await asyncio.gather(*(ask(app, route, num_tokens, stream) for _ in range(NUM_STREAMS)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InstantCore, "num_together", NUM_STREAMS)
        return await instructions(work, warm_ups=1)


async def cost(app: FastAPI, route: str) -> float:
    """Instructions per token."""
    few, many = await total(app, route, FEW), await total(app, route, MANY)
    return (many - few) / (NUM_STREAMS * (MANY - FEW))


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    InstantCore.put_in_place(monkeypatch)
    yield
    envs.disable_envs_cache()


async def test_costs(core: None) -> None:
    """Streamed and whole, on LMI's, TGI's and OpenAI's routes.

    What counts is Python alone. In seconds the difference is larger, because much of what is saved is not Python's
    (`benchmarks/results/serving.md`).
    """
    app = await upstreams()
    theirs = {route: await cost(app, route) for route in ("completions", "completions-logprobs", "chat")}
    whole = await total(app, "completions-logprobs", MANY, stream=False)
    app = await ours()
    async with vllm_app.lifespan(app):
        here = {route: await cost(app, route) for route in ROUTES}
        whole_here = await total(app, "lmi", MANY, stream=False)
    assert here["lmi"] <= MOST_FOR_LMI * theirs["completions-logprobs"], (here, theirs)
    assert here["tgi"] <= 1.1 * here["lmi"], here
    assert whole_here <= whole
    for route, count in theirs.items():
        assert here[route] <= MOST_FOR_UPSTREAMS * count, (route, here, theirs)
