# SPDX-License-Identifier: Apache-2.0
"""One run of the server without an engine: signals, drain, death, exit codes; and what `bind` refuses."""

import asyncio
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from serving import server as server_module
from serving.app import create_app
from serving.config.options import ServerSettings
from serving.errors import ConfigError
from serving.health import Health
from serving.server import Server, bind
from tests.conftest import context_of
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure

LONG = {"inputs": "hello world", "parameters": {"max_new_tokens": 40}, "stream": True}


class Run:
    """A server on a free port, run beside the test."""

    def __init__(self, engine: FakeEngine, delay_s: float = 0, timeout_s: float = 5, death_code: int = 1):
        health = Health(engine)
        context = replace(context_of(engine), health=health)
        app = create_app(context, ServerSettings())
        self.results = context.results
        self._server = Server(app, engine, health, delay_s, timeout_s, {"log_level": "critical"}, death_code)
        self._ready = asyncio.Event()

    async def __aenter__(self) -> "Run":
        self.sock = bind("127.0.0.1", 0)
        self.code = asyncio.create_task(self._server.run(self.sock, self._ready.set))
        await asyncio.wait_for(self._ready.wait(), 5)
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.sock.getsockname()[1]}", timeout=10)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.client.aclose()
        if not self.code.done():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait_for(self.code, 5)
        self.sock.close()

    async def start_long_stream(self, engine: FakeEngine) -> asyncio.Task[httpx.Response]:
        """A stream that has reached the engine."""
        stream = asyncio.create_task(self.client.post("/invocations", json=LONG))
        async with asyncio.timeout(30):
            while engine.num_in_flight == 0:
                await asyncio.sleep(0.01)
        return stream


async def test_sigterm_drains(engine: FakeEngine) -> None:
    engine.step_s = 0.02
    async with Run(engine, delay_s=0.5) as run:
        stream = await run.start_long_stream(engine)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        ping = await run.client.get("/ping")
        assert (ping.status_code, ping.json()) == (503, {"test": {"status": "Unhealthy"}})
        assert (await run.client.get("/health")).status_code == 503
        assert (await run.client.post("/invocations", json={"inputs": "hello"})).status_code == 200
        assert len([line for line in (await stream).text.split("\n") if line]) == 40
        assert await asyncio.wait_for(run.code, 5) == 0


async def test_sigint_does_not_wait_for_the_delay(engine: FakeEngine) -> None:
    async with Run(engine, delay_s=60) as run:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        assert await asyncio.wait_for(run.code, 5) == 0


async def test_second_sigint_does_not_wait_at_all(engine: FakeEngine) -> None:
    engine.step_s = 60
    async with Run(engine, timeout_s=60) as run:
        stream = await run.start_long_stream(engine)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.3)
        assert not run.code.done()
        os.kill(os.getpid(), signal.SIGINT)
        assert await asyncio.wait_for(run.code, 5) == 0
        stream.cancel()


async def test_timeout_ends_what_is_in_flight(engine: FakeEngine) -> None:
    engine.step_s = 60
    async with Run(engine, timeout_s=1) as run:
        stream = await run.start_long_stream(engine)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(run.code, 5) == 0
        assert engine.num_in_flight == 0
        stream.cancel()


async def submit(run: Run, engine: FakeEngine) -> None:
    """A request whose answer is fetched later, and a client that is gone."""
    answer = await run.client.post("/invocations", json=LONG, headers={"x-synchronous": "false"})
    assert answer.status_code == 200
    async with asyncio.timeout(30):
        while engine.num_in_flight == 0:
            await asyncio.sleep(0.01)


async def test_sigterm_waits_for_what_is_fetched_later(engine: FakeEngine) -> None:
    """As for any other request: it comes to its end."""
    engine.step_s = 0.02
    async with Run(engine) as run:
        await submit(run, engine)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert not run.code.done()
        assert engine.num_in_flight == 1
        assert await asyncio.wait_for(run.code, 5) == 0
        assert (engine.num_in_flight, len(run.results)) == (0, 1)


async def test_timeout_ends_what_is_fetched_later(engine: FakeEngine) -> None:
    engine.step_s = 60
    async with Run(engine, timeout_s=1) as run:
        await submit(run, engine)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(run.code, 5) == 0
        assert (engine.num_in_flight, len(run.results)) == (0, 0)


@pytest.mark.parametrize("code", [1, 137])
async def test_dead_engine(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(server_module, "_DEATH_CHECK_S", 1.0)  # time to ask before the port closes
    async with Run(engine, death_code=code) as run:
        engine.is_dead = True
        ping = await run.client.get("/ping")
        assert (ping.status_code, ping.json()) == (500, {"test": {"status": "FAILED"}})
        assert await asyncio.wait_for(run.code, 5) == code


async def test_engine_that_ends_while_shutting_down(engine: FakeEngine) -> None:
    """A supervisor may signal the whole process group; that is a stop, not a failure."""
    async with Run(engine, delay_s=0.2) as run:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        engine.is_dead = True
        assert await asyncio.wait_for(run.code, 5) == 0


async def test_address_taken_while_the_engine_started(engine: FakeEngine) -> None:
    first, second = bind("127.0.0.1", 0), None
    try:
        port = first.getsockname()[1]
        second = bind("127.0.0.1", port)
        first.listen()
        health = Health(engine)
        app = create_app(replace(context_of(engine), health=health), ServerSettings())
        server = Server(app, engine, health, 0, 1, {"log_level": "critical"})
        with pytest.raises(ConfigError, match="cannot listen on the address: Address already in use"):
            await server.run(second, lambda: None)
    finally:
        first.close()
        if second is not None:
            second.close()


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("no.such.host.invalid", 1, r"cannot listen on no\.such\.host\.invalid:1: .*; choose another with --port or"),
        ("127.0.0.1", 70000, "cannot listen on 127.0.0.1:70000: .*port must be 0-65535"),
        ("192.0.2.77", 8080, "Cannot assign requested address"),
    ],
)
def test_bind_refuses(host: str, port: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bind(host, port)


def test_bind_to_a_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="Address already in use"):
        bind(*taken.getsockname())


def test_unix_socket_left_behind(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    bind("", 0, path).close()
    with bind("", 0, path) as again:
        again.listen()
        with pytest.raises(ConfigError, match="choose another with --uds"):
            bind("", 0, path)
