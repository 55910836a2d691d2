# SPDX-License-Identifier: Apache-2.0
"""When an answer's bytes go out, what a failure looks like before and after the first one, and clients that leave."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.app import create_app
from serving.config.options import ServerSettings
from serving.errors import EngineDead, EngineOverloaded, PayloadError, ServingError
from serving.request_log import RequestLog
from serving.schemas.generation import GenerationChunk, GenerationRequest
from tests.conftest import context_of
from tests.fakes import FakeEngine
from tests.unit.asgi import TIMEOUT_S, Exchange, invocation

pytestmark = pytest.mark.pure
LONG_S = 3600.0
INTERNAL = "internal error; the server's log has the details"


async def until_in_flight(engine: FakeEngine, count: int) -> None:
    """Waits until the engine works on this many requests."""
    async with asyncio.timeout(TIMEOUT_S):
        while engine.num_in_flight != count:
            await asyncio.sleep(0)


async def test_one_message_per_engine_step(app: FastAPI, engine: FakeEngine) -> None:
    engine.tokens_per_step = 3
    exchange = await invocation(app, max_new_tokens=7).run()
    assert [body.count(b'"token"') for body in exchange.bodies] == [3, 3, 1, 0]
    assert exchange.bodies[-1] == b""
    assert exchange.is_complete


class Shouting:
    """A middleware of the user's, which changes every piece."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def shout(message: Message) -> None:
            await send({**message, "body": message["body"].upper()} if "body" in message else message)

        await self._app(scope, receive, shout)


@pytest.mark.parametrize("has_others", [False, True])
async def test_pieces_pass_middlewares_that_have_to_see_them(engine: FakeEngine, has_others: bool) -> None:
    """Ours have not; they see the ends of a stream."""
    app = create_app(
        context_of(engine),
        ServerSettings(),
        attach=lambda app: app.add_middleware(Shouting) if has_others else None,
    )
    (log,) = [one for one in app.user_middleware if one.cls is RequestLog]
    assert log.kwargs["is_direct"] is not has_others
    exchange = await invocation(app, max_new_tokens=3).run()
    assert exchange.is_complete
    assert len(exchange.bodies) == 4
    assert all((b"TOKEN" in body) is has_others for body in exchange.bodies[:-1])


async def test_client_leaves_as_the_answer_is_done(app: FastAPI, engine: FakeEngine) -> None:
    """Whichever is seen first, nothing is left running and nobody else is cancelled."""
    for turns in range(40):
        exchange = invocation(app, stream=bool(turns % 2), max_new_tokens=1)
        task = asyncio.create_task(exchange.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        exchange.leave()
        async with asyncio.timeout(TIMEOUT_S):
            await task
        assert task.cancelling() == 0
        assert engine.num_in_flight == 0


async def test_answer_without_stream_is_one_message_with_its_length(app: FastAPI) -> None:
    exchange = await invocation(app, stream=False, max_new_tokens=3).run()
    (body,) = exchange.bodies
    assert body == b'{"generated_text": "ementement Licensee"}\n'
    assert exchange.headers["content-length"] == str(len(body))


async def test_stream_has_no_length(app: FastAPI) -> None:
    exchange = await invocation(app, max_new_tokens=1).run()
    assert "content-length" not in exchange.headers
    assert exchange.headers["content-type"] == "application/jsonlines"


async def test_nothing_is_sent_before_the_first_chunk_exists(app: FastAPI, engine: FakeEngine) -> None:
    engine.step_s = 0.05
    exchange = invocation(app, max_new_tokens=1)
    task = asyncio.create_task(exchange.run())
    await until_in_flight(engine, 1)
    assert exchange.sent == []
    await task
    assert exchange.status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_client_leaves_before_the_first_byte(app: FastAPI, engine: FakeEngine, stream: bool) -> None:
    engine.step_s = LONG_S
    exchange = invocation(app, stream)
    task = asyncio.create_task(exchange.run())
    await until_in_flight(engine, 1)
    exchange.leave()
    await task
    assert engine.num_in_flight == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("is_raised", [True, False])
async def test_work_that_hides_that_it_was_cancelled(stream: bool, is_raised: bool) -> None:
    """As vLLM's routes do, which answer that the client left: nobody's answer, and no failure of the server's."""

    class Engine(FakeEngine):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
            try:
                await asyncio.sleep(LONG_S)
            except asyncio.CancelledError:
                if is_raised:
                    raise PayloadError("Client disconnected") from None
            yield GenerationChunk(0, "", [], 0, "abort")

    counted: list[int] = []
    log = RequestLog(create_app(context_of(Engine()), ServerSettings()), count=counted.append)
    exchange = invocation(log, stream)
    task = asyncio.create_task(exchange.run())
    await asyncio.sleep(0.05)
    exchange.leave()
    async with asyncio.timeout(TIMEOUT_S):
        await task
    assert task.cancelling() == 0
    assert all(status < 500 for status in counted)
    assert b"Client disconnected" not in b"".join(exchange.bodies)


async def test_client_leaves_mid_stream(app: FastAPI, engine: FakeEngine) -> None:
    exchange = invocation(app)
    task = asyncio.create_task(exchange.run())
    await exchange.until_sent(2)
    engine.step_s = LONG_S
    exchange.leave()
    await task
    assert engine.num_in_flight == 0
    assert 1 < len(exchange.bodies) + 1 < 30
    assert exchange.sent[-1]["more_body"] is True


@pytest.mark.parametrize("num_read", [0, 1, 2])
async def test_client_that_reads_no_further_leaves(app: FastAPI, engine: FakeEngine, num_read: int) -> None:
    """The app waits in `send`: before the status, before the first bytes, before the second ones."""
    exchange = invocation(app)
    if num_read == 0:
        exchange.flowing.clear()
    task = asyncio.create_task(exchange.run())
    await until_in_flight(engine, 1)
    await exchange.until_sent(num_read)
    exchange.flowing.clear()
    for _ in range(20):
        await asyncio.sleep(0)
    exchange.leave()
    await asyncio.wait([task], timeout=TIMEOUT_S)
    assert engine.num_in_flight == 0
    exchange.flowing.set()
    await task


async def test_other_requests_go_on_when_a_client_leaves(app: FastAPI, engine: FakeEngine) -> None:
    leaving, staying = invocation(app), invocation(app, max_new_tokens=3)
    tasks = [asyncio.create_task(exchange.run()) for exchange in (leaving, staying)]
    await leaving.until_sent(2)
    leaving.leave()
    await asyncio.gather(*tasks)
    assert staying.is_complete
    assert staying.bodies[-2].endswith(b"\n\n\n")
    assert engine.num_in_flight == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("failure", "status", "body"),
    [
        (PayloadError("too long"), 424, {"code": 424, "error": "too long"}),
        (EngineOverloaded("busy"), 503, {"code": 503, "type": "WlmCapacityException", "message": "busy"}),
        (EngineDead(), 500, {"code": 500, "type": "EngineException", "message": "Inference Engine Failure"}),
        (KeyError("secret"), 500, {"code": 500, "type": "InternalServerException", "message": INTERNAL}),
    ],
)
async def test_failure_before_the_first_byte_is_an_http_error(
    app: FastAPI, engine: FakeEngine, stream: bool, failure: Exception, status: int, body: dict[str, object]
) -> None:
    engine.failure = failure
    exchange = await invocation(app, stream).run()
    assert exchange.status == status
    assert json.loads(b"".join(exchange.bodies)) == body
    assert exchange.headers["connection"] == "close"
    assert exchange.is_complete
    assert engine.num_in_flight == 0


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (EngineDead(), {"message": "Inference Engine Failure", "type": "EngineException", "code": 500}),
        (PayloadError("nö"), {"message": "nö", "type": "BadRequestException", "code": 424}),
        (ZeroDivisionError("secret"), {"message": INTERNAL, "type": "InternalServerException", "code": 500}),
    ],
)
async def test_failure_after_the_first_byte_is_the_last_line(
    app: FastAPI, engine: FakeEngine, failure: Exception, error: dict[str, object]
) -> None:
    engine.failure, engine.fail_after = failure, 2
    exchange = await invocation(app).run()
    assert exchange.status == 200
    assert len(exchange.bodies) == 4
    assert exchange.bodies[2] == json.dumps({"error": error}, ensure_ascii=False).encode() + b"\n"
    assert exchange.is_complete
    assert engine.num_in_flight == 0


@pytest.mark.parametrize("fail_after", [0, 1])
async def test_unexpected_exception_is_logged_with_the_request_id(
    app: FastAPI, engine: FakeEngine, caplog: pytest.LogCaptureFixture, fail_after: int
) -> None:
    engine.failure, engine.fail_after = ZeroDivisionError("secret"), fail_after
    exchange = await invocation(app).run()
    assert b"secret" not in b"".join(exchange.bodies)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("serving.routers.streaming", logging.ERROR)
    assert record.getMessage() == "request id-1 failed"
    assert record.exc_info is not None
    assert record.exc_info[1] is engine.failure


@pytest.mark.parametrize("fail_after", [0, 1])
async def test_error_of_ours_is_no_bug(
    app: FastAPI, engine: FakeEngine, caplog: pytest.LogCaptureFixture, fail_after: int
) -> None:
    engine.failure, engine.fail_after = ServingError("known"), fail_after
    await invocation(app).run()
    assert caplog.records == []


async def test_client_leaves_while_it_sends_its_body(app: FastAPI, engine: FakeEngine) -> None:
    exchange = Exchange(app, headers={"content-length": "100"}, body=[b"{"], is_whole=False)
    exchange.leave()
    await exchange.run()
    assert engine.requests == []


@pytest.mark.parametrize(("path", "body"), [
    ("/invocations", {"inputs": "x", "adapters": "\ud800"}),
    ("/generate", {"inputs": "x", "parameters": {"adapter_id": "\ud800"}}),
])  # fmt: skip
async def test_half_a_surrogate_in_an_error(client: httpx.AsyncClient, path: str, body: dict[str, object]) -> None:
    answer = await client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code in (422, 424)
    assert "\ud800" in answer.json()["error"]
