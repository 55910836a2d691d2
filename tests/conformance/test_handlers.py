# SPDX-License-Identifier: Apache-2.0
"""The contract of a user's `model.py`, over HTTP: its own worker process, and a stand-in for the engine alone."""

import asyncio
import os
import re
import textwrap
import time
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from djl_python import Output, SessionManager
from djl_python.test_model import TestHandler as Harness
from djl_python.test_model import create_json_request, extract_output_as_string
from serving.errors import ConfigError
from tests.conformance.cases import Case, cases
from tests.conformance.exchange import exchange
from tests.custom import DIRECT, WRAPPED, CustomServer, serving

pytestmark = pytest.mark.pure
HI = {"inputs": "hi"}
VALUES = {"long": "x" * 401}
HEAD = """
from djl_python import Input, Output
from djl_python.encode_decode import decode
from djl_python.async_utils import (
    create_non_stream_output, create_stream_chunk_output, handle_streaming_response
)
from djl_python.input_parser import input_formatter
from djl_python.output_formatter import output_formatter

def _answer(value):
    return create_non_stream_output(value) if isinstance(value, dict) else value
"""


def run(engine: str) -> Any:
    """The cases of one test."""
    return pytest.mark.parametrize("case", cases("djl_python", engine), ids=str)


@pytest.fixture(autouse=True)
def _recorded(request: pytest.FixtureRequest, record_property) -> None:
    case = request.getfixturevalue("case")
    record_property("case", (case.contract, case.id, bool(case.deviation)))


@pytest.mark.parametrize(
    "case", [*cases("djl_python", "fake"), *cases("configuration", "handler"), *cases("schemas", "handler")], ids=str
)
async def test_case(case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expect = case.expect
    if "refused" in expect:
        with pytest.raises(ConfigError, match=expect["refused"]):
            async with server_of(case, tmp_path):
                pass
        assert re.search(expect.get("logged", ""), caplog.text)
        return
    async with server_of(case, tmp_path) as server:
        values = {"dir": str(tmp_path)}
        for step in case.given.get("steps", [{"given": case.given.get("request", {}), "expect": expect}]):
            await ask(step.get("given", {}), step["expect"], server.client, values)
        if "degraded" in expect:
            custom = server.assembly.custom
            assert re.search(expect["degraded"], custom.degraded if custom is not None else "")
        assert server.num_starts == expect.get("starts", server.num_starts)


@run("left")
async def test_client_that_leaves(case: Case, tmp_path: Path) -> None:
    async with server_of(case, tmp_path) as server:
        async with (
            server.client.stream("POST", "/invocations", json=HI) as response,
            aclosing(response.aiter_raw()) as chunks,
        ):
            assert [await anext(chunks) for _ in range(2)] == [b'{"t": "a"}\n'] * 2
        async with asyncio.timeout(30):
            while not all((tmp_path / name).exists() for name in ("ended", "finalized")):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        assert (tmp_path / "ended").read_text() == "line\n"
        assert (tmp_path / "finalized").read_text() == "line\n"


@run("dies")
async def test_worker_that_dies(case: Case, tmp_path: Path) -> None:
    async with server_of(case, tmp_path) as server:
        for number in range(2):
            pid = server.worker_pid
            said = {"pid": pid, "parent": os.getpid(), "n": [True, False]}
            await ask({}, {"json_equal": said}, server.client)
            if number == 0:
                await ask(case.given["request"], case.expect, server.client)
                await server.until_up()
                assert server.worker_pid != pid


@run("too_slow")
async def test_answer_that_comes_too_late(case: Case, tmp_path: Path) -> None:
    async with server_of(case, tmp_path) as server:
        late = asyncio.create_task(ask(case.given["request"], case.expect, server.client))
        await asyncio.sleep(0.2)
        await assert_free(server)
        assert not late.done()
        await late
        async with asyncio.timeout(case.expect["answers_within_s"]):
            while (answer := await server.client.post("/invocations", json=HI)).status_code == 504:
                pass
        assert (answer.status_code, answer.text) == (200, "s")


@run("blocked")
async def test_handler_that_blocks(case: Case, tmp_path: Path) -> None:
    async with server_of(case, tmp_path) as server:
        blocked = asyncio.create_task(ask({}, {"body": "s"}, server.client))
        await asyncio.sleep(0.2)
        await assert_free(server)
        assert not blocked.done()
        await blocked


@run("executions")
async def test_executions(case: Case, tmp_path: Path) -> None:
    async with server_of(case, tmp_path) as server:
        for _ in range(3):
            assert (await server.client.post("/invocations", json=HI)).status_code == 200
        pids = {"server": os.getpid()}
        if server.assembly.custom is not None and (pid := server.worker_pid) is not None:
            pids["worker"] = pid
        executed = [int(line) for line in (tmp_path / "pids").read_text().split()]
        assert sorted(executed) == sorted(pids[name] for name in case.expect["processes"])
        assert len(set(pids.values())) == len(pids)


@run("session")
def test_session(case: Case, tmp_path: Path) -> None:
    import numpy

    manager, other = (SessionManager({"sessions_path": str(tmp_path)}) for _ in range(2))
    session = manager.create_session()
    session.put("k", {"x": 1})
    session.get_as_numpy("s", (2, 2), create=True)[:] = 3
    for reader in (other, SessionManager({"sessions_path": str(tmp_path)})):
        seen = reader.get_session(session.session_id)
        assert seen.get("k") == {"x": 1}
        numpy.testing.assert_array_equal(seen.get_as_numpy("s", (2, 2)), numpy.full((2, 2), 3, "float32"))


@run("expiry")
def test_session_that_expires(case: Case, tmp_path: Path) -> None:
    manager = SessionManager({"sessions_path": str(tmp_path), "sessions_expiration": "1"})
    session = manager.create_session()
    time.sleep(1.2)
    assert manager.get_session(session.session_id) is None
    assert Path(session.files_path).is_dir()
    manager.create_session()
    assert not Path(session.files_path).exists()
    with pytest.raises(ValueError, match=f"session not found: {session.session_id}"):
        manager.get_session(session.session_id)


@run("test_client")
def test_client_for_tests(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text(model_of(case.given))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    output = Harness("model.py", str(tmp_path)).inference(create_json_request(HI))
    assert type(output) is Output
    assert extract_output_as_string(output) == case.expect["text"]


async def ask(
    given: dict[str, Any], expect: dict[str, Any], client: httpx.AsyncClient, values: dict[str, str] | None = None
) -> None:
    """One request of a case and its answer, with what every case has in common.

    `save` in `expect` keeps the first part of headers in `values`, for the requests after it.
    """
    values = {} if values is None else values
    if not {"json", "raw", "npz"} & given.keys():
        given = {**given, "json": HI}
    headers = {"x-custom-handler-fallback": None, **expect.get("headers", {})}
    answer = await exchange(given, {"status": 200, **expect, "headers": headers}, client, VALUES | values)
    values |= {name: answer.headers[header].split(";")[0] for name, header in expect.get("save", {}).items()}


async def assert_free(server: CustomServer) -> None:
    """Whatever does not need the user's code answers at once."""
    for method, path, body in (
        ("GET", "/ping", None),
        ("POST", "/v1/completions", {"prompt": "hi"}),
        ("POST", "/generate", HI),
    ):
        began = time.monotonic()
        assert (await server.client.request(method, path, json=body)).status_code == 200
        assert time.monotonic() - began < 2


@run("batch")
async def test_batch(case: Case, tmp_path: Path) -> None:
    """Requests that come at the same time are one call; without company, one is a call of its own."""
    async with server_of(case, tmp_path) as server:

        async def send(text: str) -> tuple[int, str]:
            answer = await server.client.post("/invocations", content=text, headers={"content-type": "text/plain"})
            return answer.status_code, answer.text if answer.status_code == 200 else answer.json()["message"]

        for texts, expected in zip(case.given["texts"], case.expect["answers"], strict=True):
            assert [list(one) for one in await asyncio.gather(*map(send, texts))] == expected
        assert await send("alone") == (200, "alone")


def server_of(case: Case, directory: Path) -> AbstractAsyncContextManager[CustomServer]:
    """The server that a case asks for."""
    given = case.given
    properties = {**(DIRECT if given.get("direct") else WRAPPED), **given.get("properties", {})}
    if "fallback" in given:
        properties["option.custom_handler_fallback"] = given["fallback"]
    return serving(directory, {"model.py": model_of(given), **given.get("files", {})}, properties)


def model_of(given: dict[str, Any]) -> str:
    """The user's file."""
    lines = [HEAD, given.get("code", "")]
    if "expr" in given or "does" in given:
        lines += ["async def handle(inputs):", "    if inputs.is_empty():", "        return None"]
        lines.append(textwrap.indent(given.get("does") or f"return _answer({given['expr'].strip()})", "    "))
    return "\n".join(lines)
