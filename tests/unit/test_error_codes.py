# SPDX-License-Identifier: Apache-2.0
"""LMI's keys for statuses: on LMI's routes, for the kinds of error that they name, and nowhere else."""

import pytest

from handlers.default import DefaultHandler
from serving.app import create_app
from serving.config.options import ServerSettings
from serving.errors import EngineDead, EngineError, EngineOverloaded, PayloadError, RequestTimeout, ServingError
from serving.routers.context import Context
from serving.schemas.output import Defaults
from tests.conftest import client_of, context_of
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure
CODES = {
    "throttle_error_http_code": "429",
    "timeout_http_code": "408",
    "bad_request_http_code": "422",
    "server_error_http_code": "502",
}


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (EngineOverloaded("Worker queue capacity exceeded for model: test"), 429),
        (RequestTimeout("late"), 408),
        (EngineDead(), 502),
        (PayloadError("bad"), 424),
    ],
)
async def test_invocations(engine: FakeEngine, failure: ServingError, status: int) -> None:
    engine.failure = failure
    before = context_of(engine, DefaultHandler(engine, Defaults()))
    settings = ServerSettings.model_validate(CODES)
    fields = {name: getattr(before, name) for name in Context.__slots__} | {"settings": settings}
    async with client_of(create_app(Context(**fields), settings)) as client:
        answer = await client.post("/invocations", json={"inputs": "hi"})
        assert (answer.status_code, answer.json()["code"]) == (status, status)
        assert (await client.get("/models?limit=x")).status_code == 422
        tgi = await client.post("/generate", json={"inputs": "hi"})
        assert tgi.status_code not in (408, 502)


async def test_own_statuses(engine: FakeEngine) -> None:
    """Unset, each error has the status of its own."""
    engine.failure = EngineError("the engine failed on this request")
    async with client_of(create_app(context_of(engine), ServerSettings.model_validate({}))) as client:
        answer = await client.post("/invocations", json={"inputs": "hi"})
        assert answer.status_code == engine.failure.http_status
