# SPDX-License-Identifier: Apache-2.0
"""What the gate refuses is told in the envelope of each route family, and says when to try again."""

from http import HTTPStatus
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.datastructures import State
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import GracefulHTTPError

from serving.app import create_app
from serving.config.options import ServerSettings
from serving.engine import vllm_app, vllm_errors
from serving.engine.engine_args import namespace
from serving.errors import EngineError, EngineOverloaded, PayloadError, RequestTimeout
from tests.conftest import client_of, context_of
from tests.fakes import FakeEngine

pytestmark = pytest.mark.vllm
TEXT = "Worker queue capacity exceeded for model: test"


def app_that_refuses(error: Exception) -> FastAPI:
    """Our app whose engine refuses every request, ours and vLLM's."""

    async def create_completion(*_: object) -> None:
        raise error

    engine = FakeEngine()
    with pytest.raises(EngineError) as raised, vllm_errors.vllm_errors():
        raise error
    engine.failure = raised.value
    args = namespace({"model": "m"})
    state = State({"args": args, "openai_serving_completion": SimpleNamespace(create_completion=create_completion)})
    return create_app(
        context_of(engine),
        ServerSettings(),
        attach=lambda app: vllm_app.attach(app, state, ("generate",), None),
    )


@pytest.mark.parametrize(
    ("status", "ours", "code", "phrase"),
    [
        (HTTPStatus.SERVICE_UNAVAILABLE, EngineOverloaded, "WlmCapacityException", "Service Unavailable"),
        (HTTPStatus.GATEWAY_TIMEOUT, RequestTimeout, "TranslateException", "Gateway Timeout"),
    ],
)
async def test_refusal(status: HTTPStatus, ours: type[EngineError], code: str, phrase: str) -> None:
    app = app_that_refuses(GracefulHTTPError(TEXT, status))
    async with client_of(app) as client:
        lmi = await client.post("/invocations", json={"inputs": "a"})
        streamed = await client.post("/invocations", json={"inputs": "a", "stream": True})
        openai = await client.post("/v1/completions", json={"prompt": "a"})
    assert (lmi.status_code, lmi.json()) == (status, {"code": status, "type": code, "message": TEXT})
    assert (streamed.status_code, streamed.json()) == (status, lmi.json())
    assert openai.status_code == status
    assert openai.json() == {"error": {"message": TEXT, "type": phrase, "param": None, "code": status}}
    tells_when = "1" if status is HTTPStatus.SERVICE_UNAVAILABLE else None
    assert [answer.headers.get("retry-after") for answer in (lmi, streamed, openai)] == [tells_when] * 3
    assert ours.http_status == status


def test_bodies_that_trip_vllm_are_the_clients_fault() -> None:
    """vLLM's own checks look into an object before they know that it is one."""
    text = "Input parsing failed: 'int' object has no attribute 'get'"
    with pytest.raises(PayloadError, match=text), vllm_errors.odd_values():
        CompletionRequest.model_validate({"prompt": "a", "structured_outputs": 5})
