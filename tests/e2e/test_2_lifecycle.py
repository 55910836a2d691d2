# SPDX-License-Identifier: Apache-2.0
"""Clients that leave, signals, and the engine's death. Ends the shared server, so it runs last on it."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from serving import demo
from tests.e2e.process import LmiProcess, metric, wait_for_metric

pytestmark = pytest.mark.engine

RUNNING = "vllm:num_requests_running"
GENERATED = "vllm:generation_tokens_total"
MANY = {"n": 16, "ignore_eos": True}
"""Sixteen choices keep even a fast engine busy for longer than the test needs to leave."""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/invocations", {"inputs": "Tell", "stream": True, "parameters": {"max_new_tokens": 1900, **MANY}}),
        ("/invocations", {"inputs": "Tell", "parameters": {"max_new_tokens": 1900, **MANY}}),
        ("/invocations", {"messages": [{"role": "user", "content": "Tell"}], "stream": True, **MANY}),
        ("/invocations", {"prompt": "Tell", "max_tokens": 1900, **MANY}),
        ("/v1/completions", {"prompt": "Tell", "max_tokens": 1900, "stream": True, **MANY}),
        ("/v1/completions", {"prompt": "Tell", "max_tokens": 1900, **MANY}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell"}], "stream": True, **MANY}),
    ],
    ids=["lmi-stream", "lmi", "lmi-chat-stream", "lmi-prompt", "v1-stream", "v1", "v1-chat-stream"],
)
def test_client_leaves(url: str, path: str, body: dict) -> None:
    """Closing the socket aborts the request in the engine."""
    before = metric(url, GENERATED)
    data = json.dumps(body).encode()
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + data)
        if body.get("stream"):
            assert connection.recv(15).startswith(b"HTTP/1.1 200")
        wait_for_metric(url, RUNNING, 16, 5)
    wait_for_metric(url, RUNNING, 0, 2)
    assert 0 < metric(url, GENERATED) - before < 16 * 1900


def test_sigterm_finishes_streams_in_flight(server: LmiProcess) -> None:
    """Ten streams and one that is fetched later run to their end, connections are refused, nothing is left behind."""
    num_tokens = 600
    fields = {"max_new_tokens": num_tokens, "ignore_eos": True, "details": True}
    body = {"inputs": "Tell", "stream": True, "parameters": fields}
    answers: list[list[str]] = [[] for _ in range(10)]
    all_started = threading.Barrier(11)

    def stream(lines: list[str]) -> None:
        with client.stream("POST", f"{server.url}/invocations", json=body) as answer:
            assert answer.status_code == 200
            all_started.wait(20)
            lines += [line for line in answer.iter_lines() if line]

    with httpx.Client(timeout=170) as client, ThreadPoolExecutor(10) as pool:
        streams = [pool.submit(stream, lines) for lines in answers]
        all_started.wait(20)
        later = client.post(f"{server.url}/invocations", json=body, headers={"x-synchronous": "false"})
        server.signal(signal.SIGTERM)
        in_flight = sum(not future.done() for future in streams)
        for future in streams:
            future.result(timeout=170)
    assert in_flight == 10
    assert "x-next-token" in later.headers
    assert [line for line in server.output if "timeout graceful shutdown exceeded" in line] == []
    assert all(len(lines) == num_tokens for lines in answers)
    assert all(json.loads(lines[-1])["details"]["generated_tokens"] == num_tokens for lines in answers)
    assert server.wait() == 0
    assert server.left_behind() == []
    assert [line for line in server.output if "Traceback" in line or "EngineDeadError" in line] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/ping")


def test_signal_while_starting() -> None:
    """The process and the engine's processes are gone at once, whatever was being loaded; SIGINT takes the same way."""
    process = LmiProcess(["--demo", "--port", "0"])
    try:
        assert process.wait_engine_pid(60) in process.children()
        process.signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.left_behind() == []
        assert "lmi: stopped while starting" in process.output
    finally:
        process.end()


def test_engine_death_without_compiler(tmp_path: Path) -> None:
    """Without a C++ compiler the server works, with one line that says so; when its engine is killed it says so.

    Its port stands in a file as long as it is ready.
    """
    port_file = tmp_path / "port"
    arguments = ["--demo", "--port", "0", "--port-file", str(port_file)]
    process = LmiProcess(arguments, env={"CXX": "no-such-compiler"})
    try:
        assert not port_file.exists()
        process.wait_ready()
        assert process.url.endswith(f":{port_file.read_text().strip()}")
        assert len([line for line in process.output if "no C++ compiler" in line]) == 1
        question = next(iter(demo.answers()))
        payload = {"inputs": question, "parameters": {"max_new_tokens": 40, "details": True}}
        answer = httpx.post(f"{process.url}/invocations", json=payload, timeout=60).json()
        assert answer["generated_text"] == demo.answers()[question]
        ours, upstream = asyncio.run(_killed_under_load(process))
        assert (ours.status_code, ours.json()["message"]) == (500, "Inference Engine Failure")
        assert upstream.status_code == 500
        assert "EngineCore encountered an issue" in upstream.json()["error"]["message"]
        with suppress(httpx.TransportError):
            assert httpx.get(f"{process.url}/ping", timeout=5).status_code == 500
        assert process.wait() == 1
        assert process.left_behind() == []
        assert list(tmp_path.iterdir()) == []
    finally:
        process.end()


async def _killed_under_load(process: LmiProcess) -> list[httpx.Response]:
    """Answers to an LMI and a /v1 request that are in flight when the engine process is killed."""
    async with httpx.AsyncClient(base_url=process.url, timeout=30) as client:
        fields = {"max_new_tokens": 2000, **MANY}
        requests = [
            asyncio.create_task(client.post("/invocations", json={"inputs": "Tell", "parameters": fields})),
            asyncio.create_task(client.post("/v1/completions", json={"prompt": "Tell", "max_tokens": 2000, **MANY})),
        ]
        deadline = time.monotonic() + 10
        while await asyncio.to_thread(metric, process.url, RUNNING) < 32 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        os.kill(process.wait_engine_pid(), signal.SIGKILL)
        return [await request for request in requests]
