# SPDX-License-Identifier: Apache-2.0
"""Request ids and LMI's headers, the body limit and API keys, on a small app behind each middleware."""

import json
import uuid

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import middleware
from serving.errors import PayloadTooLarge
from serving.middleware import ApiKeys, BodyLimit, RequestHeaders
from tests.unit.asgi import Exchange

pytestmark = pytest.mark.pure
LIMIT = 10


class Echo:
    """Answers with the body it read; counts the requests that reach it.

    Attributes:
        num_requests: how many did.
        ids: the request id each one carried.
        on_large: what it answers when it notices the limit itself; None lets the exception out.
    """

    def __init__(self, on_large: Response | None = None, headers: dict[str, str] | None = None):
        self.num_requests = 0
        self.ids: list[str | None] = []
        self._on_large = on_large
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_requests += 1
        if scope["type"] != "http":
            return
        self.ids.append(scope["state"].get("request_id"))
        response: ASGIApp
        try:
            response = PlainTextResponse(await Request(scope, receive).body(), headers=self._headers)
        except PayloadTooLarge:
            assert self._on_large is not None
            response = self._on_large
        await response(scope, receive, send)


@pytest.mark.parametrize("has_begun", [False, True])
async def test_failure_that_nobody_foresaw(caplog: pytest.LogCaptureFixture, has_begun: bool) -> None:
    """An answer as any other, with the id and without the reason, which is the log's; cut where it has begun."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        if has_begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a secret")

    exchange = Exchange(RequestHeaders(broken), headers={"x-request-id": "id-1"})
    if has_begun:
        with pytest.raises(RuntimeError, match="a secret"):
            await exchange.run()
        return
    await exchange.run()
    assert (exchange.status, exchange.headers["x-request-id"]) == (500, "id-1")
    assert json.loads(exchange.bodies[0]) == {
        "code": 500, "type": "InternalServerException", "message": "internal error; the server's log has the details",
    }  # fmt: skip
    assert "request id-1 failed" in caplog.text
    assert "a secret" in caplog.text


@pytest.mark.parametrize("body", [[b"0123456789"], [b"01234", b"56789"], [b""]])
@pytest.mark.parametrize("is_told", [True, False])
async def test_body_within_the_limit_reaches_the_app(body: list[bytes], is_told: bool) -> None:
    headers = {"content-length": str(len(b"".join(body)))} if is_told else {}
    exchange = await Exchange(BodyLimit(Echo(), LIMIT), headers=headers, body=body).run()
    assert (exchange.status, b"".join(exchange.bodies)) == (200, b"".join(body))


async def test_told_length_above_the_limit_is_refused_and_the_body_discarded() -> None:
    app = Echo()
    exchange = Exchange(BodyLimit(app, LIMIT), headers={"content-length": "12"}, body=[b"0123", b"4567", b"8901"])
    await exchange.run()
    assert (exchange.status, exchange.bodies, exchange.is_complete) == (413, [b""], True)
    assert exchange.headers == {"connection": "close", "content-length": "0"}
    assert exchange.num_received == 3
    assert app.num_requests == 0


async def test_client_that_waits_to_be_asked_is_refused_without_reading() -> None:
    headers = {"content-length": "11", "expect": "100-continue"}
    exchange = await Exchange(BodyLimit(Echo(), LIMIT), headers=headers, body=[b"never"]).run()
    assert (exchange.status, exchange.num_received) == (413, 0)


async def test_discarding_ends_when_the_client_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "_DISCARD_S", 0.01)
    exchange = Exchange(BodyLimit(Echo(), LIMIT), headers={"content-length": "11"}, body=[b"0"], is_whole=False)
    assert (await exchange.run()).status == 413


@pytest.mark.parametrize("answer", [Response(status_code=500), PlainTextResponse("mine", 200)])
async def test_body_of_untold_length_is_refused_whatever_the_app_answers(answer: Response) -> None:
    exchange = await Exchange(BodyLimit(Echo(answer), LIMIT), body=[b"0123456789", b"0", b"discarded"]).run()
    assert (exchange.status, exchange.bodies, exchange.is_complete) == (413, [b""], True)
    assert exchange.num_received == 3


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
@pytest.mark.parametrize("layer", [lambda app: BodyLimit(app, LIMIT), RequestHeaders])
async def test_other_protocols_pass(kind: str, layer) -> None:
    app = Echo()
    exchange = Exchange(layer(app))
    exchange.scope["type"] = kind
    await exchange.run()
    assert app.num_requests == 1


async def test_request_id_of_the_client_is_kept() -> None:
    app = Echo()
    exchange = await Exchange(RequestHeaders(app), headers={"X-Request-Id": "abc"}).run()
    assert (app.ids, exchange.headers["x-request-id"]) == (["abc"], "abc")


async def test_request_id_by_another_header() -> None:
    """The id is read from the header that is set, and always returned by the one name."""
    app = Echo()
    layer = RequestHeaders(app, id_header="X-Amzn-SageMaker-Inference-Id")
    headers = {"x-amzn-sagemaker-inference-id": "id-1", "x-request-id": "not-this"}
    exchange = await Exchange(layer, headers=headers).run()
    assert (app.ids, exchange.headers["x-request-id"]) == (["id-1"], "id-1")
    assert "x-amzn-sagemaker-inference-id" not in exchange.headers


@pytest.mark.parametrize("text", ["~" * 256, "a b/c:d"])
async def test_request_id_that_may_be_kept(text: str) -> None:
    assert (await Exchange(RequestHeaders(Echo()), headers={"x-request-id": text}).run()).headers[
        "x-request-id"
    ] == text


@pytest.mark.parametrize("text", ["", "x" * 257, "a\tb", "a\x7fb", "a\x1b[31mb", "é"])
async def test_request_without_an_id_gets_one(text: str) -> None:
    headers = {"x-request-id": text}
    app = Echo()
    exchanges = [await Exchange(RequestHeaders(app), headers=headers).run() for _ in range(2)]
    ids = [exchange.headers["x-request-id"] for exchange in exchanges]
    assert app.ids == ids
    assert [str(uuid.UUID(one)) for one in ids] == ids
    assert ids[0] != ids[1]


@pytest.mark.parametrize(("path", "is_ours"), [("/invocations", True), ("/ping", True), ("/v1/models", False)])
async def test_headers_of_lmi_stand_on_our_routes(path: str, is_ours: bool) -> None:
    exchange = await Exchange(RequestHeaders(Echo()), path).run()
    expected = {
        "pragma": "no-cache",
        "cache-control": "no-cache; no-store, must-revalidate, private",
        "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
    }
    found = {name: value for name, value in exchange.headers.items() if name in expected}
    assert found == (expected if is_ours else {})
    assert "x-request-id" in exchange.headers


async def test_headers_of_the_answer_win() -> None:
    app = Echo(headers={"x-request-id": "mine", "cache-control": "max-age=1"})
    exchange = await Exchange(RequestHeaders(app)).run()
    assert (exchange.headers["x-request-id"], exchange.headers["cache-control"]) == ("mine", "max-age=1")


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("OPTIONS", {"origin": "https://a", "access-control-request-method": "POST"}, 200),
        ("OPTIONS", {"origin": "https://a"}, 401),
        ("OPTIONS", {"access-control-request-method": "POST"}, 401),
        ("POST", {"origin": "https://a", "access-control-request-method": "POST"}, 401),
    ],
)
async def test_preflights_need_no_key(method: str, headers: dict[str, str], status: int) -> None:
    app = Echo()
    exchange = Exchange(ApiKeys(app, ["k"]), headers=headers)
    exchange.scope["method"] = method
    assert ((await exchange.run()).status, app.num_requests) == (status, 1 if status == 200 else 0)


@pytest.mark.parametrize(
    ("path", "authorization", "status"),
    [
        ("/invocations", "Bearer k1", 200),
        ("/invocations", "bearer  k2 ", 200),
        ("/invocations", "Bearer k3", 401),
        ("/invocations", "Bearer ", 401),
        ("/invocations", "Basic k1", 401),
        ("/invocations", "k1", 401),
        ("/invocations", None, 401),
        ("/ping", None, 200),
        ("/v2/health/ready", None, 200),
        ("/v2/models/test", None, 401),
        ("/v1/models", None, 401),
    ],
)
async def test_keys(path: str, authorization: str | None, status: int) -> None:
    app = Echo()
    headers = {} if authorization is None else {"authorization": authorization}
    exchange = await Exchange(ApiKeys(app, ["k1", "k2"]), path, headers).run()
    assert (exchange.status, app.num_requests) == (status, 1 if status == 200 else 0)
