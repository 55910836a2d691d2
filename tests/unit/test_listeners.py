# SPDX-License-Identifier: Apache-2.0
"""Which routes are there by which listener, what the other one answers, and one app behind two sockets."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from serving.app import create_app
from serving.config.options import ServerSettings
from serving.errors import ConfigError
from serving.health import Health
from serving.listeners import Listener, Marked
from serving.server import Server, bind, bound
from tests.conftest import context_of
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure
HI = {"inputs": "hello"}
INFERENCE = [
    ("POST", "/invocations"),
    ("POST", "/predictions/test"),
    ("POST", "/models/test/invoke"),
    ("POST", "/generate"),
    ("POST", "/"),
    ("GET", "/info"),
]
MANAGEMENT = [
    ("GET", "/models"),
    ("GET", "/models/test"),
    ("PUT", "/models/test"),
    ("GET", "/workflows"),
    ("POST", "/server/logging"),
    ("GET", "/server/metrics"),
    ("GET", "/adapters"),
    ("GET", "/models/test/adapters"),
    ("POST", "/adapters/a/update"),
    ("POST", "/models/test/reload"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
]
BOTH = [("GET", "/ping"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/v2/health/ready"), ("OPTIONS", "/")]


@pytest.fixture
def app(engine: FakeEngine) -> FastAPI:
    """Our app, with a key and code that can be run again."""
    context = replace(context_of(engine), reload=lambda: asyncio.sleep(0))
    return create_app(context, ServerSettings(max_request_size=1000), api_keys=["k"])


async def ask(app: FastAPI, listener: Listener, method: str, path: str, **more: object) -> httpx.Response:
    transport = httpx.ASGITransport(Marked(app, listener))
    headers = {"authorization": "Bearer k"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        return await client.request(method, path, **{"json": HI, **more})  # type: ignore[arg-type]


def is_there(answer: httpx.Response) -> bool:
    """The route answered: whatever it said, it was not that there is none."""
    return "Requested resource is not found" not in answer.text and "Requested method" not in answer.text


@pytest.mark.parametrize(("method", "path"), [*INFERENCE, *MANAGEMENT, *BOTH])
async def test_routes(app: FastAPI, method: str, path: str) -> None:
    found = {listener for listener in Listener if is_there(await ask(app, listener, method, path))}
    wanted = {Listener.INFERENCE: [*INFERENCE, *BOTH], Listener.MANAGEMENT: [*MANAGEMENT, *BOTH]}
    assert found == {listener for listener, routes in wanted.items() if (method, path) in routes}


async def test_refusals(app: FastAPI) -> None:
    """In the words of the route's family, with an id, and with LMI's headers on LMI's routes."""
    lmi = await ask(app, Listener.INFERENCE, "GET", "/models")
    assert (lmi.status_code, lmi.json()["type"]) == (404, "ResourceNotFoundException")
    assert (lmi.headers["connection"], lmi.headers["pragma"]) == ("close", "no-cache")
    assert lmi.headers["x-request-id"]
    upstream = await ask(app, Listener.INFERENCE, "POST", "/v1/load_lora_adapter")
    assert (upstream.status_code, upstream.json()["error"]["code"]) == (404, 404)
    upstream = await ask(app, Listener.MANAGEMENT, "POST", "/v1/chat/completions")
    assert (upstream.status_code, upstream.json()["error"]["code"]) == (404, 404)
    unknown = await ask(app, Listener.MANAGEMENT, "GET", "/nope")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "ResourceNotFoundException")
    method = await ask(app, Listener.MANAGEMENT, "PUT", "/adapters")
    assert (method.status_code, method.json()["type"]) == (405, "MethodNotAllowedException")


@pytest.mark.parametrize("listener", Listener)
async def test_keys_ids_and_limits_hold_for_both(app: FastAPI, listener: Listener) -> None:
    """Also where the path is the other listener's: nobody without a key learns what there is."""
    for path in ("/models", "/invocations"):
        answer = await ask(app, listener, "POST", path, headers={"authorization": "Bearer x", "x-request-id": "i"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (401, "i")
        assert (await ask(app, listener, "POST", path, json="x" * 1000)).status_code == 413
    assert (await ask(app, listener, "GET", "/ping", headers={"authorization": ""})).status_code == 200


async def test_websocket_by_management(app: FastAPI) -> None:
    sent = []

    async def send(message) -> None:
        sent.append(message)

    async def receive():
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/v1/realtime", "root_path": "", "query_string": b"",
             "headers": [(b"authorization", b"Bearer k")], "extensions": {"websocket.http.response": {}}}  # fmt: skip
    await Marked(app, Listener.MANAGEMENT)(scope, receive, send)
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 404)


async def test_without_a_second_listener(engine: FakeEngine) -> None:
    app = create_app(context_of(engine), ServerSettings())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert [(await client.request(method, path, json=HI)).status_code for method, path in [
            ("GET", "/models"), ("POST", "/invocations"), ("GET", "/ping")
        ]] == [200] * 3  # fmt: skip


class Run:
    """A server with a port for inference and a Unix socket for management."""

    def __init__(self, engine: FakeEngine, path: Path):
        health = Health(engine)
        app = create_app(replace(context_of(engine), health=health), ServerSettings())
        options = {"log_level": "critical"}
        self.server = Server(
            Marked(app, Listener.INFERENCE), engine, health, 0, 5, options,
            further=[(Marked(app, Listener.MANAGEMENT), options)],
        )  # fmt: skip
        self.path = str(path / "m.sock")
        self.ready = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
        """Clients of both; refused until the block begins."""
        with bind("127.0.0.1", 0) as first, bound("", 0, self.path) as second:
            urls = (f"http://127.0.0.1:{first.getsockname()[1]}", "http://m")
            async with (
                httpx.AsyncClient(base_url=urls[0], timeout=10) as client,
                httpx.AsyncClient(base_url=urls[1], transport=httpx.AsyncHTTPTransport(uds=self.path)) as other,
            ):
                for one in (client, other):
                    with pytest.raises(httpx.ConnectError):
                        await one.get("/ping")
                self.code = asyncio.create_task(self.server.run(first, self.ready.set, second))
                await asyncio.wait_for(self.ready.wait(), 5)
                yield client, other


async def test_two_sockets(engine: FakeEngine, tmp_path: Path) -> None:
    """Both open when the server is ready, both finish what is in flight, and the socket's file is gone then."""
    run = Run(engine, tmp_path)
    engine.step_s = 0.02
    async with run.serving() as (client, other):
        assert (await client.get("/models")).status_code == 404
        assert (await other.get("/models")).json()["models"][0]["modelName"] == "test"
        assert (await other.post("/invocations", json=HI)).status_code == 404
        assert [(await one.get("/ping")).status_code for one in (client, other)] == [200, 200]
        body = {"inputs": "hello world", "parameters": {"max_new_tokens": 40}}
        answer = asyncio.create_task(client.post("/invocations", json=body))
        async with asyncio.timeout(30):
            while engine.num_in_flight == 0:
                await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await answer).status_code == 200
        assert await asyncio.wait_for(run.code, 5) == 0
        for one in (client, other):
            with pytest.raises(httpx.ConnectError):
                await one.get("/ping")
    assert not Path(run.path).exists()


async def test_dead_engine_ends_both(engine: FakeEngine, tmp_path: Path) -> None:
    run = Run(engine, tmp_path)
    async with run.serving() as (_, other):
        engine.is_dead = True
        assert (await other.get("/ping")).status_code == 500
        assert await asyncio.wait_for(run.code, 5) == 1


async def test_second_address_taken_meanwhile(engine: FakeEngine) -> None:
    """The start fails as a whole, and the first address is free again."""
    health = Health(engine)
    app = create_app(replace(context_of(engine), health=health), ServerSettings())
    options = {"log_level": "critical"}
    server = Server(app, engine, health, 0, 1, options, further=[(app, options)])
    with bind("127.0.0.1", 0) as taken, bind("127.0.0.1", 0) as first, bind(*taken.getsockname()) as second:
        address = first.getsockname()
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen on the address: Address already in use"):
            await server.run(first, lambda: None, second)
        bind(*address).close()


def test_address_that_is_taken(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="Address already in use; choose another with management_address"):
            bind(*taken.getsockname(), None, "management_address")


def test_file_of_a_start_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(RuntimeError), bound("", 0, str(path)):  # noqa: PT012 - the file is looked at inside
        assert path.is_socket()
        raise RuntimeError
    assert not path.exists()
