# SPDX-License-Identifier: Apache-2.0
"""Rows of the HTTP contract on servers in a state of their own: loading, full, dying, with a user's code, ...

`engines` of such a row names its set-up here; keys of `given` beside the request are what the set-up takes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from handlers.resolve import resolve as handler_on
from serving import demo
from serving.app import create_app
from serving.config.host import Host
from serving.config.limits import limits
from serving.config.mode import Mode
from serving.config.options import LmiOptions, ServerSettings
from serving.config.resolve import resolve
from serving.errors import ConfigError, EngineDead
from serving.health import Health
from serving.server import Server, bind
from tests.conformance.adapters import check_steps
from tests.conformance.cases import Case, cases
from tests.conformance.exchange import check
from tests.conftest import app_on, client_of, context_of
from tests.custom import WRAPPED, serving
from tests.fakes import FakeEngine, GatedEngine

pytestmark = pytest.mark.pure
HI = {"inputs": "hi"}
Setup = Callable[[dict[str, Any], Path], AbstractAsyncContextManager[httpx.AsyncClient]]


def started_with(keys: dict[str, str], directory: Path) -> None:
    """A start with these variables, each of which has no effect and says so."""
    env = {"HF_MODEL_ID": "org/m", **keys}
    warnings = resolve(env, [], Host(device_count=1, root=directory), demo.MODEL_DIR).warnings
    assert len(warnings) == len(keys)
    assert all("has no effect: the port opens once the model is loaded" in text for text in warnings)


@asynccontextmanager
async def loading(given: dict[str, Any], directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The port is bound, and the model is not there yet."""
    started_with(given.get("keys", {}), directory)
    with bind("127.0.0.1", 0) as sock:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
            yield client


@asynccontextmanager
async def dead(given: dict[str, Any], directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The engine is gone, and the server has not noticed."""
    engine = FakeEngine()
    engine.is_dead = True
    async with client_of(create_app(context_of(engine), ServerSettings())) as client:
        yield client


@asynccontextmanager
async def dying(given: dict[str, Any], directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The engine takes a request and dies with it."""
    engine = FakeEngine()
    engine.step_s, engine.failure = 0.01, EngineDead()
    async with client_of(create_app(context_of(engine), ServerSettings())) as client:
        yield client
    assert (len(engine.requests), engine.num_in_flight) == (1, 0)


@asynccontextmanager
async def gone(given: dict[str, Any], directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The engine died, and the server has noticed."""
    engine = FakeEngine()
    health = Health(engine)
    app = create_app(replace(context_of(engine), health=health), ServerSettings())
    ready = asyncio.Event()
    with bind("127.0.0.1", 0) as sock:
        code = asyncio.create_task(Server(app, engine, health, 0, 5, {"log_level": "critical"}).run(sock, ready.set))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{sock.getsockname()[1]}") as client:
            await ready.wait()
            assert (await client.post("/invocations", json=HI)).status_code == 200
            engine.is_dead = True
            assert await asyncio.wait_for(code, 10) == 1
            yield client


@asynccontextmanager
async def hanging(given: dict[str, Any], directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The engine takes requests and gives nothing; it runs one, and the queue has one place unless `server` says so."""
    server = ServerSettings.model_validate({"job_queue_size": 1, **given.get("server", {})})
    engine = GatedEngine(limits(LmiOptions.model_validate({"max_rolling_batch_size": 1}), server, {}))
    engine.step_s = 3600
    async with client_of(create_app(replace(context_of(engine), settings=server), server)) as client:
        yield client
    async with asyncio.timeout(30):
        while engine.num_in_flight:  # what was given up ends in the engine, too
            await asyncio.sleep(0.01)


@asynccontextmanager
async def full(given: dict[str, Any], directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """As `hanging`, with a request in the engine and one in the queue."""
    async with hanging(given, directory) as client:
        requests = [asyncio.create_task(client.post("/invocations", json=HI)) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert not any(request.done() for request in requests)
        try:
            yield client
        finally:
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)


@asynccontextmanager
async def embedding(given: dict[str, Any], directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A model that embeds texts."""
    engine = FakeEngine()
    engine.tasks = ("embed",)
    async with client_of(app_on(engine, handler_on(engine, Mode("async", "the default"), LmiOptions()))) as client:
        yield client


@asynccontextmanager
async def custom(given: dict[str, Any], directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A `model.py` with this `code`, in front of the built-in async service."""
    properties = {**WRAPPED, **given.get("properties", {})}
    async with serving(directory, {"model.py": given["code"]}, properties) as server:
        yield server.client


SETUPS: dict[str, Setup] = {
    setup.__name__: setup for setup in (loading, dead, dying, gone, hanging, full, embedding, custom)
}


@pytest.mark.parametrize("case", [case for name in SETUPS for case in cases("http", name)], ids=str)
async def test_case(case: Case, tmp_path: Path, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    async with SETUPS[case.engines[0]](case.given, tmp_path) as client:
        await check(case, client, {"model": "test"})


@pytest.mark.parametrize("case", cases("http", "no_slot"), ids=str)
async def test_case_without_a_slot(case: Case, tmp_path: Path, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    files = {"ninth/adapter_config.json": "{}"}
    async with serving(tmp_path, files, {"option.enable_lora": "true"}) as server:
        server.engine.loras.is_full = True
        await check_steps(case, server.client, {"dir": str(tmp_path / "ninth")})
        assert (await server.client.get("/adapters/a9")).status_code == 404


@pytest.mark.parametrize("case", cases("http", "refused_start"), ids=str)
def test_case_of_a_start(case: Case, tmp_path: Path, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    with pytest.raises(ConfigError) as raised:
        resolve(case.given["keys"], [], Host(device_count=1, root=tmp_path), demo.MODEL_DIR)
    assert str(raised.value) == case.expect["refused"]


def test_every_case_has_a_test() -> None:
    """A name in `engines` that nothing runs would make its row one that cannot fail."""
    known = {*SETUPS, "no_slot", "refused_start", "fake", "real", "adapters", "together"}
    assert {name for case in cases("http") for name in case.engines} <= known
