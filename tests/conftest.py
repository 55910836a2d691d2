# SPDX-License-Identifier: Apache-2.0
"""Fixtures for every tier, and the conformance table at the end of the report."""

from collections import Counter
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from handlers.default import DefaultHandler
from serving.app import create_app
from serving.config.options import ServerSettings
from serving.health import Health
from serving.routers.context import Context
from tests.fakes import FakeEngine

ROOT = Path(__file__).parents[1]
TIERS = ("pure", "vllm", "engine")
_outcomes: dict[tuple[str, str], str] = {}


@pytest.fixture
def engine() -> FakeEngine:
    """The scripted engine."""
    return FakeEngine(adapters=["a1", "a2"])


@pytest.fixture
def app(engine: FakeEngine) -> FastAPI:
    """Our app on the scripted engine, its model called `test`."""
    return create_app(Context("test", DefaultHandler(engine), Health(engine)), ServerSettings(max_request_size=65536))


@pytest.fixture
async def client(app: FastAPI):
    """An HTTP client of `app`."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test stands in exactly one tier; the fast ones come first."""
    for item in items:
        tiers = [tier for tier in TIERS if item.get_closest_marker(tier)]
        if len(tiers) != 1:
            raise pytest.UsageError(f"{item.nodeid} needs exactly one of the markers {', '.join(TIERS)}, has {tiers}")
    items.sort(key=lambda item: next(tier for tier, name in enumerate(TIERS) if item.get_closest_marker(name)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers how each conformance case ended."""
    case = dict(report.user_properties).get("case")
    if case is None or (report.when != "call" and report.passed):
        return
    contract, number, deviates = case
    verdict = "deviating" if deviates and report.passed else report.outcome
    if _outcomes.get((contract, number)) != "failed":
        _outcomes[contract, number] = verdict


def pytest_terminal_summary(terminalreporter) -> None:
    """Contract, cases in the data, passed, deviating, failed, not run in this tier."""
    if not _outcomes:
        return
    from tests.conformance.cases import contracts

    terminalreporter.section("conformance")
    terminalreporter.write_line(
        f"{'contract':<16}{'cases':>7}{'passed':>8}{'deviating':>11}{'failed':>8}{'not run':>9}"
    )
    for contract, cases in contracts().items():
        seen = Counter(_outcomes.get((contract, case.id), "not run") for case in cases)
        columns = (len(cases), seen["passed"], seen["deviating"], seen["failed"], seen["not run"])
        terminalreporter.write_line("{:<16}{:>7}{:>8}{:>11}{:>8}{:>9}".format(contract, *columns))
