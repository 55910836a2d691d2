# SPDX-License-Identifier: Apache-2.0
"""One server on the demo model for the whole tier, started the way the README says."""

from collections.abc import Iterator

import pytest

from tests.e2e.process import LmiProcess


@pytest.fixture(scope="session")
def server() -> Iterator[LmiProcess]:
    """`lmi serve --demo` on a free port; ended by the last test, or here."""
    with LmiProcess(["--demo", "--port", "0", "--shutdown-timeout", "150"]) as process:
        yield process


@pytest.fixture
def url(server: LmiProcess) -> str:
    """Where the shared server listens."""
    return server.url


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A failure shows the last lines of the server it talked to."""
    outcome = yield
    report = outcome.get_result()
    process = getattr(item, "funcargs", {}).get("server")
    if report.failed and process is not None:
        report.sections.append(("server output", "\n".join(process.output[-40:])))
