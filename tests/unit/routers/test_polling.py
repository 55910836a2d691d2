# SPDX-License-Identifier: Apache-2.0
"""Asynchronous results beyond the golden rows: who ends the work, what is refused at once, what is too much."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from fastapi import FastAPI

from handlers.base import Handler, InferenceRequest, InferenceResponse
from serving.app import create_app
from serving.async_results import AsyncResults
from serving.config.limits import Limits
from serving.config.options import ServerSettings
from serving.errors import EngineOverloaded, PayloadError
from serving.routers import polling
from tests.conftest import context_of
from tests.fakes import FakeEngine
from tests.unit.asgi import TIMEOUT_S, Exchange, invocation

pytestmark = pytest.mark.pure
LONG_S = 3600.0


class Clients:
    """Submit and poll on an app whose store is small where `settings` say so."""

    def __init__(self, engine: FakeEngine, handler: Handler | None = None, limit: int | None = None, **settings: int):
        server = ServerSettings.model_validate(settings)
        limits = Limits(limit, 1, 1, 1) if limit is not None else None
        context = replace(
            context_of(engine, handler), requests=engine, limits=limits, settings=server, results=AsyncResults(server)
        )
        self.results = context.results
        self.app: FastAPI = create_app(context, server)
        self.calls: list[asyncio.Task[Exchange]] = []

    async def submit(self, stream: bool = True, **parameters: object) -> Exchange:
        """The reply to a submission whose client is gone; the call of the app goes on in `calls`."""
        exchange = invocation(self.app, stream, **parameters)
        exchange.scope["headers"].append((b"x-synchronous", b"false"))
        self.calls.append(asyncio.create_task(exchange.run()))
        await exchange.until_sent(2)
        exchange.leave()
        return exchange

    async def poll(self, token: str) -> Exchange:
        """What there is by now."""
        return await Exchange(self.app, headers={"x-starting-token": token}).run()

    async def answer(self, submission: Exchange) -> Exchange:
        """What there is when the work is done."""
        await asyncio.gather(*self.calls)
        return await self.poll(submission.headers["x-next-token"])


class OneAnswer:
    """A handler that always gives the same answer."""

    def __init__(self, body: bytes | AsyncGenerator[bytes]):
        self.num_delivered = 0
        self._body = body

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(self._body, "text/x", 201, {"x-of": "user"}, on_delivered=self._delivered)

    def _delivered(self) -> None:
        self.num_delivered += 1


async def until_in_flight(engine: FakeEngine, count: int) -> None:
    """Waits until the engine works on this many requests."""
    async with asyncio.timeout(TIMEOUT_S):
        while engine.num_in_flight != count:
            await asyncio.sleep(0)


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_ends_nothing(engine: FakeEngine, stream: bool) -> None:
    engine.step_s = 0.02
    clients = Clients(engine)
    submission = await clients.submit(stream, max_new_tokens=3)
    assert submission.is_complete
    await until_in_flight(engine, 1)
    assert (await clients.poll(submission.headers["x-next-token"])).status == 202
    answer = await clients.answer(submission)
    assert answer.status == 200
    assert answer.bodies[0].count(b"ement") >= 2
    assert "x-next-token" not in answer.headers


async def test_pieces_as_they_come(engine: FakeEngine) -> None:
    """A client that is quicker than the engine gets 202 with the token that it has."""
    clients = Clients(engine)
    submission = await clients.submit(max_new_tokens=30)
    token = submission.headers["x-next-token"]
    async with asyncio.timeout(TIMEOUT_S):
        while not (pieces := clients.results.get(token).pieces):
            await asyncio.sleep(0)
    engine.step_s = LONG_S
    await asyncio.sleep(0.01)
    page = await clients.poll(token)
    assert (page.status, page.headers["content-type"]) == (200, "application/jsonlines")
    assert page.headers["x-next-token"] == f"{token}{len(pieces)}"
    waiting = await clients.poll(f"{token}{len(pieces)}")
    assert (waiting.status, waiting.bodies) == (202, [b""])
    assert waiting.headers["x-next-token"] == f"{token}{len(pieces)}"
    for call in clients.calls:
        call.cancel()


async def test_pages_are_bounded(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is, a page is not more than so many bytes, and never nothing."""
    monkeypatch.setattr(polling, "_PAGE_BYTES", 1)
    clients = Clients(engine)
    page = await clients.answer(await clients.submit(max_new_tokens=2))
    whole = b""
    for _ in range(10):
        whole += b"".join(page.bodies)
        if "x-next-token" not in page.headers:
            break
        page = await clients.poll(page.headers["x-next-token"])
    assert whole.count(b'"token"') == 2
    assert "x-next-token" not in page.headers


async def test_call_that_is_cancelled(engine: FakeEngine) -> None:
    """As uvicorn does when the time to shut down is over."""
    engine.step_s = LONG_S
    clients = Clients(engine)
    submission = await clients.submit()
    await until_in_flight(engine, 1)
    clients.calls[0].cancel()
    await asyncio.wait(clients.calls)
    assert engine.num_in_flight == 0
    assert (await clients.poll(submission.headers["x-next-token"])).status == 400
    assert len(clients.results) == 0


async def test_full_queue_refuses_at_once(engine: FakeEngine) -> None:
    engine.step_s = LONG_S
    clients = Clients(engine, limit=1)
    await clients.submit()
    await until_in_flight(engine, 1)
    refusal = await clients.submit()
    body = {"code": 503, "type": "WlmCapacityException", "message": "Worker queue capacity exceeded for model: test"}
    assert (refusal.status, json.loads(refusal.bodies[0])) == (503, body)
    assert refusal.headers["retry-after"] == "1"
    assert "x-next-token" not in refusal.headers
    assert len(clients.results) == 1
    clients.calls[0].cancel()


async def test_too_many_unfinished(engine: FakeEngine) -> None:
    engine.step_s = LONG_S
    clients = Clients(engine, memory_cache_capacity=2, throttle_error_http_code=429)
    await clients.submit()
    await clients.submit()
    refusal = await clients.submit()
    assert (refusal.status, json.loads(refusal.bodies[0])["type"]) == (429, "WlmCapacityException")
    await until_in_flight(engine, 2)
    for call in clients.calls:
        call.cancel()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (PayloadError("too long"), 424, "too long"),
        (EngineOverloaded("busy"), 429, "busy"),
        (KeyError("secret"), 500, "internal error; the server's log has the details"),
    ],
)
async def test_failure_before_the_first_byte(
    engine: FakeEngine, stream: bool, failure: Exception, status: int, text: str
) -> None:
    engine.failure = failure
    clients = Clients(engine, throttle_error_http_code=429)
    answer = await clients.answer(await clients.submit(stream))
    assert answer.status == status
    assert text in json.loads(answer.bodies[0]).values()
    assert answer.headers["content-type"] == "application/json"
    assert "x-next-token" not in answer.headers


async def test_stream_that_is_too_long(engine: FakeEngine) -> None:
    """Its work ends, and its last line says why."""
    clients = Clients(engine, memory_cache_max_bytes=1000)
    answer = await clients.answer(await clients.submit(max_new_tokens=400))
    assert engine.num_in_flight == 0
    first, *_, last = map(json.loads, filter(None, answer.bodies[0].split(b"\n")))
    assert first["token"]["text"] == "ement"
    text = "there is no memory for this asynchronous result; memory_cache_max_bytes bounds it"
    assert last == {"error": {"message": text, "type": "WlmCapacityException", "code": 503}}
    assert len(answer.bodies[0]) < 1200
    assert "x-next-token" not in answer.headers


@pytest.mark.parametrize(("max_bytes", "status"), [(100_000, 201), (1000, 503)])
async def test_answer_is_delivered_once(engine: FakeEngine, max_bytes: int, status: int) -> None:
    handler = OneAnswer(b"x" * 2000)
    clients = Clients(engine, handler, memory_cache_max_bytes=max_bytes)
    answer = await clients.answer(await clients.submit())
    assert answer.status == status
    assert handler.num_delivered == 1
    if status == 201:
        assert (answer.headers["x-of"], answer.headers["content-type"]) == ("user", "text/x")
        assert (answer.headers["content-length"], answer.bodies) == ("2000", [b"x" * 2000])


async def test_stream_without_a_piece(engine: FakeEngine) -> None:
    async def nothing() -> AsyncGenerator[bytes]:
        for piece in ():
            yield piece

    clients = Clients(engine, OneAnswer(nothing()))
    answer = await clients.answer(await clients.submit())
    assert (answer.status, answer.bodies, answer.headers["x-of"]) == (201, [b""], "user")


async def test_client_that_leaves_while_it_submits(engine: FakeEngine) -> None:
    clients = Clients(engine)
    exchange = Exchange(clients.app, headers={"content-length": "9", "x-synchronous": "false"}, is_whole=False)
    exchange.leave()
    await exchange.run()
    assert engine.requests == []
    assert len(clients.results) == 0
