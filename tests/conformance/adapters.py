# SPDX-License-Identifier: Apache-2.0
"""Runs a case of the adapter routes, whose steps are requests one after the other; for either kind of engine."""

import httpx

from tests.conformance.cases import Case
from tests.conformance.exchange import exchange

HI = {"inputs": "hi"}


async def check_steps(case: Case, client: httpx.AsyncClient, values: dict[str, str]) -> None:
    """Every request of the case, each answered as it says."""
    for step in case.given.get("steps", [{"given": case.given, "expect": case.expect}]):
        given = step["given"]
        body = {} if "path" in given and "invocations" not in given["path"] else {"json": HI}
        await exchange({**body, **given}, {"status": 200, **step["expect"]}, client, values)
