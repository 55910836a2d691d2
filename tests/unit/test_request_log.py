# SPDX-License-Identifier: Apache-2.0
"""What the log and the metrics are told of a request: on a small app around a scripted engine's gate, and on ours."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import log, request_record
from serving.app import create_app
from serving.config.limits import Limits
from serving.config.options import ServerSettings
from serving.engine.gate import EngineGate
from serving.engine.lora_gate import LoraGate
from serving.engine.lora_slots import LoraSlots
from serving.errors import EngineOverloaded
from serving.request_log import RequestLog
from tests.conftest import client_of, context_of
from tests.fakes import FakeEngine
from tests.unit.asgi import TIMEOUT_S, Exchange, invocation

pytestmark = pytest.mark.pure


def output(*num_tokens: int, is_finished: bool = False) -> SimpleNamespace:
    """What vLLM gives for one step: so many new tokens per choice."""
    return SimpleNamespace(
        prompt_token_ids=[1, 2, 3],
        outputs=[SimpleNamespace(token_ids=list(range(count))) for count in num_tokens],
        finished=is_finished,
        metrics=SimpleNamespace(queued_ts=1.0, scheduled_ts=1.25),
    )


class Client:
    """Stands for vLLM's client."""

    def __init__(self) -> None:
        self.trace_headers: Any = "none were given"

    async def generate(self, prompt: str, trace_headers: Any = None) -> AsyncGenerator[SimpleNamespace]:
        self.trace_headers = trace_headers
        yield output(1)
        yield output(2, 1)
        yield output(1, is_finished=True)


def gate(client: Client, is_traced: bool = False) -> EngineGate:
    async def add(request: Any) -> bool:
        return True

    opened = EngineGate(client, "m", RuntimeError, LoraGate(lambda path: None, str, add, LoraSlots(2)))
    opened.limits = Limits(10, 60, 60, 60)
    opened.is_traced = is_traced
    return opened


def streaming(opened: EngineGate, pause_s: float = 0) -> ASGIApp:
    """An app that writes once per output."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(pause_s)
        is_started = False
        async for _ in opened.generate("x"):
            await asyncio.sleep(pause_s)
            if not is_started:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            is_started = True
            await send({"type": "http.response.body", "body": b".", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "serving.request_log"]


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving.request_log")


async def test_what_the_engine_did(caplog: pytest.LogCaptureFixture) -> None:
    await Exchange(RequestLog(streaming(gate(Client()), pause_s=0.02))).run()
    (line,) = lines(caplog)
    assert (line.prompt_tokens, line.tokens, line.queue_ms) == (3, 5, 250.0)
    # Two of the four pauses are ours: before the engine was asked, and between its first output and the first write.
    assert 40 <= line.overhead_ms <= line.total_ms - 40
    assert 20 <= line.first_output_ms <= line.total_ms - 60


async def test_line_on_our_app(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    before = REGISTRY.get_sample_value("lmi_requests_total", {"route": "/invocations", "status": "200"}) or 0
    app = create_app(context_of(engine), ServerSettings())
    exchange = await invocation(app, stream=True).run()
    assert exchange.status == 200
    (line,) = lines(caplog)
    assert line.getMessage().startswith("POST /invocations 200 request_id=id-1 family=lmi total_ms=")
    assert "hello" not in line.getMessage()
    after = REGISTRY.get_sample_value("lmi_requests_total", {"route": "/invocations", "status": "200"})
    assert after == before + 1


@pytest.mark.parametrize(
    ("path", "body", "failure", "error"),
    [
        ("/invocations", {"inputs": "x"}, EngineOverloaded("full"), "error=WlmCapacityException"),
        ("/invocations", {"input": "x"}, None, "error=BadRequestException"),
        ("/generate", {"inputs": ""}, None, "family=tgi handler=tgi error=BadRequestException"),
        ("/no/such/route", {}, None, "error=ResourceNotFoundException"),
    ],
)
async def test_kind_of_error(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture, path: str, body: Any, failure: Exception | None, error: str
) -> None:
    engine.failure = failure
    async with client_of(create_app(context_of(engine), ServerSettings())) as client:
        await client.post(path, json=body)
    assert error in lines(caplog)[-1].getMessage()


async def test_bug_is_counted(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(context_of(engine), ServerSettings())

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    async with client_of(app) as client:
        assert (await client.get("/broken")).status_code == 500
    assert lines(caplog)[-1].getMessage().startswith("GET /broken 500 ")
    assert REGISTRY.get_sample_value("lmi_requests_total", {"route": "/broken", "status": "500"}) == 1


async def test_what_others_did_is_not_our_overhead(caplog: pytest.LogCaptureFixture) -> None:
    opened = gate(Client())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(0.2)
        request_record.restart()
        await streaming(opened)(scope, receive, send)

    await Exchange(RequestLog(app), body=[b"a", b"b"]).run()
    (line,) = lines(caplog)
    assert line.overhead_ms < 100
    assert line.total_ms > 200


async def test_a_prompt_that_follows_in_a_stream_is_not_our_overhead() -> None:
    """The pieces of a stream that has begun do not pass here; the engine's time between them is not ours."""
    record = request_record.RequestRecord(overhead_s=0.0)
    record.first_output(3, None)
    record.written()
    record.status = 200
    record.first_output(3, None)
    await asyncio.sleep(0.05)
    record.written()
    assert record.overhead_s is not None
    assert record.overhead_s < 0.04
    assert record.num_prompt_tokens == 6


async def test_client_that_leaves(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    label = {"route": "/invocations", "status": "499"}
    before = REGISTRY.get_sample_value("lmi_requests_total", label) or 0
    engine.step_s = 60
    exchange = invocation(create_app(context_of(engine), ServerSettings()), stream=True)
    running = asyncio.create_task(exchange.run())
    async with asyncio.timeout(TIMEOUT_S):
        while not engine.num_in_flight:
            await asyncio.sleep(0.01)
    exchange.leave()
    await running
    assert "client_left=true" in lines(caplog)[-1].getMessage()
    assert REGISTRY.get_sample_value("lmi_requests_total", label) == before + 1


async def test_probes_have_a_line_in_debug_mode_only(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(create_app(context_of(engine), ServerSettings())) as client:
        await client.get("/ping")
        assert lines(caplog) == []
        caplog.set_level(logging.DEBUG, "serving.request_log")
        await client.get("/ping")
    assert lines(caplog)[-1].getMessage().startswith("GET /ping 200")


@pytest.mark.parametrize("options", [{"logs_requests": False}, {"unlogged_paths": ["/models"]}])
async def test_no_line_where_none_is_wanted(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    async with client_of(create_app(context_of(engine), ServerSettings(), **options)) as client:
        assert (await client.get("/models")).status_code == 200
    assert lines(caplog) == []


async def test_a_client_cannot_make_lines(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    async with client_of(create_app(context_of(engine), ServerSettings())) as client:
        await client.get("/a%0Ab error=none", headers={"x-request-id": 'x" status=200 é'.encode("latin-1")})
    text = lines(caplog)[-1].getMessage()
    assert "\n" not in text
    assert text.startswith("GET /a%0Ab%20error%3Dnone 404 ")


@pytest.mark.parametrize("is_traced", [True, False])
async def test_trace_context_reaches_the_engine(is_traced: bool) -> None:
    client = Client()
    headers = {"traceparent": "00-1-2-01", "tracestate": "a=b", "authorization": "secret"}
    await Exchange(RequestLog(streaming(gate(client, is_traced))), headers=headers).run()
    assert client.trace_headers == ({"traceparent": "00-1-2-01", "tracestate": "a=b"} if is_traced else None)


async def test_nothing_is_noted_after_the_end() -> None:
    tasks = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def later() -> bool:
            await asyncio.sleep(0.02)
            request_record.note(error="late")
            return request_record.current() is None

        tasks.append(asyncio.create_task(later()))
        await Response()(scope, receive, send)

    await Exchange(RequestLog(app)).run()
    assert await tasks[0]


def test_lines_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log.setup(is_json=True)
        logging.getLogger("serving.request_log").info("GET /x", extra={"tokens": 5})
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["levelname"], line["name"], line["tokens"]) == (
        "GET /x",
        "INFO",
        "serving.request_log",
        5,
    )
