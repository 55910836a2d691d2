# SPDX-License-Identifier: Apache-2.0
"""Sends the request of one case and checks its answer; the same for the scripted and for the real engine."""

import asyncio
import re
from typing import Any

import httpx

from serving import demo
from tests.conformance.cases import Case
from tests.conformance.matching import assert_response


async def check(case: Case, client: httpx.AsyncClient, values: dict[str, str]) -> None:
    """Runs `case` against `client`; `values` fills the `${...}` of the data."""
    given = _filled(case.given, values)
    headers = {name: value for name, value in given.get("headers", {}).items() if value is not None}
    if "json" in given or "raw" not in given:
        body = {"json": given.get("json", _lmi_payload(given) if case.contract == "schemas" else None)}
    else:
        body = {"content": given["raw"].encode()}
        if "content-type" not in given.get("headers", {}):
            headers.setdefault("content-type", "application/json")
    response = await client.request(
        given.get("method", "POST"), given.get("path", "/invocations"), headers=headers, **body
    )
    assert_response(response, _filled(case.expect, values))


async def check_together(case: Case, client: httpx.AsyncClient) -> None:
    """Sends the requests of one case at once, and then the first one again: one's fault is not another's."""
    payloads = [_lmi_payload(request) for request in case.given["requests"]]
    answers = await asyncio.gather(*(client.post("/invocations", json=payload) for payload in payloads))
    assert [answer.status_code for answer in answers] == case.expect["statuses"]
    assert (await client.post("/invocations", json=payloads[0])).status_code == 200


def _lmi_payload(given: dict[str, Any]) -> dict[str, Any]:
    payload = {"inputs": given.get("inputs", "hello world"), "parameters": given.get("P", {})}
    return payload | {key: given[key] for key in ("stream", "adapters") if key in given}


def _filled(value: Any, values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {_filled(key, values): _filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if isinstance(value, str):
        return re.sub(r"\$\{([^}]+)\}", lambda match: _value(match[1], values), value)
    return value


def _value(name: str, values: dict[str, str]) -> str:
    kind, _, rest = name.partition(":")
    if kind == "answer":
        adapter, _, question = rest.partition(":")
        return demo.answers(adapter or None)[question]
    return values[name]
