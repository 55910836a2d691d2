# SPDX-License-Identifier: Apache-2.0
"""Runs a case of the adapter routes, whose steps are requests one after the other; for either kind of engine."""

from typing import Any

import httpx

from tests.conformance import exchange
from tests.conformance.cases import Case

HI = {"inputs": "hi"}


async def check_steps(case: Case, client: httpx.AsyncClient, values: dict[str, str]) -> None:
    """Every request of the case, each answered as it says."""
    steps = case.given.get("steps", [{"given": case.given, "expect": case.expect}])
    cleanup = case.given.get("cleanup", [])
    await exchange.check_steps([*map(_whole, steps)], [*map(_whole, cleanup)], client, values)


def _whole(step: dict[str, Any]) -> dict[str, Any]:
    """A step with what the data leave out: a prompt for `/invocations`, and the status 200."""
    given = step["given"]
    body = {} if "path" in given and "invocations" not in given["path"] else {"json": HI}
    return {"given": {**body, **given}, "expect": {"status": 200, **step.get("expect", {})}}
