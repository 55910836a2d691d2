# SPDX-License-Identifier: Apache-2.0
"""Sends the request of one case and checks its answer; the same for the scripted and for the real engine."""

import asyncio
import io
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from serving import demo
from tests.conformance.cases import Case
from tests.conformance.matching import array, assert_chunks, assert_response

_RESULT_S = 20


async def check(case: Case, client: httpx.AsyncClient, values: Mapping[str, str]) -> None:
    """Runs `case` against `client`; `values` fills the `${...}` of the data."""
    given = case.given
    if "steps" in given:
        await check_steps(given["steps"], given.get("cleanup", []), client, dict(values))
        return
    if "json" not in given and "raw" not in given and case.contract == "schemas":
        given = {**given, "json": _lmi_payload(given)}
    await exchange(given, case.expect, client, values)


async def exchange(
    given: dict[str, Any], expect: dict[str, Any], client: httpx.AsyncClient, values: Mapping[str, str]
) -> httpx.Response:
    """Sends one request, checks the answer and how long it took, and returns it."""
    given, expect = filled(given, values), filled(expect, values)
    headers = {name: value for name, value in given.get("headers", {}).items() if value is not None}
    request = client.build_request(
        given.get("method", "POST"), given.get("path", "/invocations"), headers=headers, **_body(given, headers)
    )
    began = time.monotonic()
    if expect.get("connection") == "refused":
        with pytest.raises(httpx.ConnectError):
            await client.send(request)
        return httpx.Response(0)
    response = await client.send(request, stream=True)
    if "chunks" in expect:
        chunks = [chunk async for chunk in response.aiter_raw()]
        assert_chunks(chunks, expect["chunks"])
        response = httpx.Response(response.status_code, headers=response.headers, content=b"".join(chunks))
    else:
        await response.aread()
    assert_response(response, expect)
    if "within_s" in expect:
        assert time.monotonic() - began < expect["within_s"]
    return response


async def check_steps(
    steps: Sequence[dict[str, Any]],
    cleanup: Sequence[dict[str, Any]],
    client: httpx.AsyncClient,
    values: dict[str, str],
) -> None:
    """Requests one after the other, and those of `cleanup` however they end.

    `save` keeps what a header of an answer begins with for those that follow.
    """
    try:
        for step in steps:
            if "poll" in step:
                response = await polled(filled(step["poll"], values), client)
                assert_response(response, filled(step["expect"], values))
            else:
                response = await exchange(step["given"], step["expect"], client, values)
            for name, header in step.get("save", {}).items():
                values[name] = response.headers[header].partition(";")[0]
    finally:
        for step in cleanup:
            await exchange(step["given"], step["expect"], client, values)


async def polled(poll: dict[str, Any], client: httpx.AsyncClient) -> httpx.Response:
    """Asks for an asynchronous result from `token` on until there are so many `pages`, or all; their bodies as one."""
    token, pages = poll["token"], []
    async with asyncio.timeout(_RESULT_S):
        while token is not None and len(pages) < poll.get("pages", sys.maxsize):
            headers = {"x-starting-token": token, **poll.get("headers", {})}
            answer = await client.request(poll.get("method", "POST"), poll.get("path", "/invocations"), headers=headers)
            if answer.status_code == 202:
                assert (answer.content, answer.headers["x-next-token"]) == (b"", token)
                await asyncio.sleep(_RESULT_S / 200)
            else:
                pages.append(answer)
            token = answer.headers.get("x-next-token")
    body = b"".join(page.content for page in pages)
    return httpx.Response(pages[-1].status_code, headers=pages[-1].headers, content=body)


async def check_together(case: Case, client: httpx.AsyncClient) -> None:
    """Sends the requests of one case at once, and then the first one again: one's fault is not another's."""
    payloads = [_lmi_payload(request) for request in case.given["requests"]]
    answers = await asyncio.gather(*(client.post("/invocations", json=payload) for payload in payloads))
    assert [answer.status_code for answer in answers] == case.expect["statuses"]
    assert (await client.post("/invocations", json=payloads[0])).status_code == 200


def _body(given: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """The body of a request as the client takes it; one that is written out is JSON unless `headers` say otherwise."""
    if "npz" in given:
        import numpy

        buffer = io.BytesIO()
        numpy.savez(buffer, *map(array, given["npz"]))
        return {"content": buffer.getvalue()}
    if "json" in given or "raw" not in given:
        return {"json": given.get("json")}
    if "content-type" not in given.get("headers", {}):
        headers.setdefault("content-type", "application/json")
    return {"content": given["raw"].encode()}


def _lmi_payload(given: dict[str, Any]) -> dict[str, Any]:
    payload = {"inputs": given.get("inputs", "hello world"), "parameters": given.get("P", {})}
    return payload | {key: given[key] for key in ("stream", "adapters") if key in given}


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """`value` with every `${...}` in it replaced."""
    if isinstance(value, dict):
        return {filled(key, values): filled(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, values) for item in value]
    if isinstance(value, str):
        return re.sub(r"\$\{([^}]+)\}", lambda match: _value(match[1], values), value)
    return value


def _value(name: str, values: Mapping[str, str]) -> str:
    kind, _, rest = name.partition(":")
    if kind == "answer":
        adapter, _, question = rest.partition(":")
        return demo.answers(adapter or None)[question]
    return values[name]
