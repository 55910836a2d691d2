# SPDX-License-Identifier: Apache-2.0
"""The HTTP and payload contracts, on the scripted engine."""

import pytest

from handlers.resolve import resolve
from serving.config.mode import Mode
from serving.config.options import LmiOptions
from serving.errors import EngineError
from tests.conformance.cases import Case, cases
from tests.conformance.exchange import check
from tests.conftest import app_on, client_of
from tests.fakes import FakeEngine
from tests.unit.asgi import Detached

pytestmark = pytest.mark.pure
VALUES = {"model": "test", "oversized": "x" * 70_000}


@pytest.mark.parametrize("case", [*cases("http", "fake"), *cases("schemas", "fake")], ids=str)
async def test_case(case: Case, engine: FakeEngine, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    engine.tokens_per_step = case.given.get("tokens_per_step", 1)
    if "fail_after" in case.given:
        engine.failure, engine.fail_after = EngineError("broken"), case.given["fail_after"]
    mode = Mode(case.given.get("mode", "async"), "the case says so")
    options = LmiOptions.model_validate({"enable_lora": True, **case.given.get("options", {})})
    engine.step_s = case.given.get("step_s", 0)
    app = Detached(app_on(engine, resolve(engine, mode, options)))
    async with client_of(app) as client:
        await check(case, client, VALUES)
    await app.finished()
    assert engine.num_in_flight == 0
