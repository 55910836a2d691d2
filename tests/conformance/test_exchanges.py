# SPDX-License-Identifier: Apache-2.0
"""The HTTP and payload contracts, on the scripted engine."""

import httpx
import pytest

from tests.conformance.cases import Case, cases
from tests.conformance.exchange import check
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure
VALUES = {"model": "test", "oversized": "x" * 70_000}


@pytest.mark.parametrize("case", [*cases("http", "fake"), *cases("schemas", "fake")], ids=str)
async def test_case(case: Case, client: httpx.AsyncClient, engine: FakeEngine, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    engine.tokens_per_step = case.given.get("tokens_per_step", 1)
    await check(case, client, VALUES)
    assert engine.num_in_flight == 0
