# SPDX-License-Identifier: Apache-2.0
"""Too many errors within a time, and the server asks load balancers to look elsewhere."""

from dataclasses import replace

import pytest

from serving import error_rates
from serving.app import create_app
from serving.config.error_rate import ErrorRate, parse_error_rate
from serving.config.options import ServerSettings
from serving.errors import EngineError, EngineOverloaded, PayloadError
from tests.conftest import client_of, context_of
from tests.fakes import FakeEngine
from tests.unit.asgi import Exchange

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("5", ErrorRate(5, 60)),
        ("1/PT5M", ErrorRate(1, 300)),
        ("0/P1DT1H1M1.5S", ErrorRate(0, 90061.5)),
        ("2/pt30s", ErrorRate(2, 30)),
    ],
)
def test_notation(text: str, rate: ErrorRate) -> None:
    assert parse_error_rate(text) == rate


@pytest.mark.parametrize("text", ["", "x", "-1", "5/", "5/PT", "5/10M", "5/P", "1.5"])
def test_no_rate(text: str) -> None:
    if text == "5/":
        assert parse_error_rate(text) == ErrorRate(5, 60)
        return
    with pytest.raises(ValueError, match="expected a number"):
        parse_error_rate(text)


@pytest.mark.parametrize(
    ("key", "failures", "is_tripped"),
    [
        ("error_rate_any", [EngineOverloaded("full"), EngineError("broken")], True),
        ("error_rate_any", [EngineOverloaded("full")], False),
        ("error_rate_any", [PayloadError("bad")] * 3, False),
        ("error_rate_wlm", [EngineOverloaded("full")] * 2, True),
        ("error_rate_wlm", [EngineOverloaded("full"), EngineError("broken")], False),
    ],
)
async def test_limit(engine: FakeEngine, key: str, failures: list[Exception], is_tripped: bool) -> None:
    """The contract's row H8: one is allowed, the second one is too many."""
    settings = ServerSettings.model_validate({key: "1/PT5M"})
    async with client_of(create_app(context_of(engine), settings)) as client:
        for engine.failure in failures:
            await client.post("/invocations", json={"inputs": "hi"})
        engine.failure = None
        ping = await client.get("/ping")
        assert ping.status_code == (503 if is_tripped else 200)
        assert ping.json() == {"test": {"status": "Healthy"}}
        assert (await client.post("/invocations", json={"inputs": "hi"})).status_code == 200


async def test_what_is_no_failure_does_not_count(engine: FakeEngine) -> None:
    """Probes, what is refused on purpose, and polls for the answer to a request that was counted."""
    settings = ServerSettings.model_validate({"error_rate_any": "1/PT5M", "stall_timeout": 1})
    engine.stalled_s = 60
    app = create_app(replace(context_of(engine), settings=settings), settings)
    async with client_of(app) as client:
        for _ in range(3):
            assert (await client.get("/ready")).status_code == 503
            assert (await client.delete("/models/test")).status_code == 501
        assert (await client.get("/ping")).status_code == 200


async def test_failure_of_an_asynchronous_request_counts_once(engine: FakeEngine) -> None:
    settings = ServerSettings.model_validate({"error_rate_any": "1/PT5M"})
    app = create_app(context_of(engine), settings)
    engine.failure = EngineError("broken")
    token = ""
    for number in range(4):
        headers = {"x-starting-token": token} if token else {"x-synchronous": "false"}
        exchange = await Exchange(app, headers=headers, body=[b'{"inputs": "hi"}']).run()
        token = token or exchange.headers["x-next-token"]
        assert exchange.status == (200 if number == 0 else 500)
    assert (await Exchange(app, path="/ping").run()).status == 200


def test_errors_of_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    now, trips = [0.0], list[int]()
    monkeypatch.setattr(error_rates.time, "monotonic", lambda: now[0])
    rates = error_rates.ErrorRates({"any": ErrorRate(1, 60)}, lambda: trips.append(1))
    for now[0] in (0, 61, 122):
        rates.count(500)
    assert trips == []
    rates.count(503)
    assert trips == [1]
