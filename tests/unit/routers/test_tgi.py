# SPDX-License-Identifier: Apache-2.0
"""TGI's routes on the scripted engine: who streams, who answers with a list, and TGI's errors."""

import json

import httpx
import pytest

from serving.errors import EngineDead, EngineError, EngineOverloaded, ServingError
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure
BODY = {"inputs": "hello world", "parameters": {"max_new_tokens": 2}}
TEXT = "ementement"


@pytest.mark.parametrize(
    ("path", "stream", "is_stream"),
    [("/", None, False), ("/", False, False), ("/", True, True), ("/generate", True, False),
     ("/generate_stream", False, True)],
)  # fmt: skip
async def test_route(client: httpx.AsyncClient, path: str, stream: bool | None, is_stream: bool) -> None:
    answer = await client.post(path, json=BODY if stream is None else BODY | {"stream": stream})
    assert answer.status_code == 200
    if not is_stream:
        expected = {"generated_text": TEXT}
        assert answer.json() == ([expected] if path == "/" else expected)
        return
    assert answer.headers["content-type"] == "text/event-stream"
    events = [json.loads(event.removeprefix("data:")) for event in answer.text.strip().split("\n\n")]
    assert [event["token"]["id"] for event in events] == [349, 349]
    assert events[-1]["generated_text"] == TEXT


async def test_info(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()
    assert {name: info[name] for name in ("model_id", "max_total_tokens", "max_input_tokens", "max_input_length")} == {
        "model_id": "org/m", "max_total_tokens": 512, "max_input_tokens": 511, "max_input_length": 511
    }  # fmt: skip
    assert info["version"]


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (EngineOverloaded("full"), 429, "overloaded"),
        (EngineError("broken"), 424, "generation"),
        (EngineDead(), 500, "incomplete_generation"),
        (RuntimeError("a bug"), 500, "incomplete_generation"),
    ],
)
async def test_failure(
    client: httpx.AsyncClient, engine: FakeEngine, failure: Exception, status: int, kind: str
) -> None:
    engine.failure = failure
    answer = await client.post("/generate", json=BODY)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert isinstance(answer.json()["error"], str)
    assert answer.headers.get("retry-after") == ("1" if status == 429 else None)


async def test_failure_after_the_first_token(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.failure, engine.fail_after = ServingError("broken"), 1
    answer = await client.post("/generate_stream", json=BODY)
    *_, last = answer.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data:")) == {"error": "broken", "error_type": "incomplete_generation"}


@pytest.mark.parametrize("body", ["{", "[]", '{"inputs": ""}', '{"inputs": "a", "parameters": {"adapter_id": "x"}}'])
async def test_refusal(client: httpx.AsyncClient, body: str) -> None:
    answer = await client.post("/generate", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")


async def test_method(client: httpx.AsyncClient) -> None:
    answer = await client.get("/generate")
    assert (answer.status_code, answer.json()["error_type"]) == (405, "validation")
