# SPDX-License-Identifier: Apache-2.0
"""`job_queue_size` and `predict_timeout` on the real engine: refusals and timeouts on every route family."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.e2e.process import LmiProcess, wait_for_metric

pytestmark = pytest.mark.long
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
LONG = {"max_tokens": 2000, "min_tokens": 2000, "ignore_eos": True}


@pytest.fixture(scope="module")
def server() -> Iterator[LmiProcess]:
    """One sequence at a time, one more may wait, two seconds for a first output."""
    env = {"OPTION_MAX_ROLLING_BATCH_SIZE": "1", "SERVING_JOB_QUEUE_SIZE": "1", "OPTION_PREDICT_TIMEOUT": "2"}
    env |= {"SERVING_STALL_TIMEOUT": "1"}
    with LmiProcess(["--demo", "--port", "0"], env) as process:
        yield process


@contextmanager
def full(server: LmiProcess) -> Iterator[Future[httpx.Response]]:
    """One stream in the engine, and one request that waits for it: as much as the limits allow."""
    leave = threading.Event()

    def run() -> None:
        body = {"inputs": "Tell", "stream": True, "parameters": LONG}
        with httpx.stream("POST", f"{server.url}/invocations", json=body, timeout=60) as answer:
            for _ in answer.iter_lines():
                if leave.is_set():
                    return

    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(run)
        wait_for_metric(server.url, RUNNING, 1, 10)
        body = {"inputs": "Tell", "parameters": {"max_new_tokens": 5}}
        waiting = pool.submit(httpx.post, f"{server.url}/invocations", json=body, timeout=60)
        wait_for_metric(server.url, WAITING, 1, 10)
        try:
            yield waiting
        finally:
            leave.set()
            running.result(60)
    wait_for_metric(server.url, RUNNING, 0, 5)
    wait_for_metric(server.url, WAITING, 0, 5)


def test_one_request_too_many(server: LmiProcess) -> None:
    with full(server):
        lmi = httpx.post(f"{server.url}/invocations", json={"inputs": "a"})
        openai = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "stream": True})
    assert lmi.status_code == openai.status_code == 503
    text = "Worker queue capacity exceeded for model: demo"
    assert lmi.json() == {"code": 503, "type": "WlmCapacityException", "message": text}
    assert openai.json()["error"]["message"] == text
    assert lmi.headers["retry-after"] == openai.headers["retry-after"] == "1"
    answer = httpx.post(f"{server.url}/invocations", json={"inputs": "Tell", "parameters": {"max_new_tokens": 5}})
    assert answer.status_code == 200


def test_first_output_that_comes_too_late(server: LmiProcess) -> None:
    """The waiting request is answered in time and is gone from the engine; the stream before it goes on."""
    with full(server) as waiting:
        answer = waiting.result(10)
        assert answer.status_code == 504
        assert answer.json()["message"].startswith("no output within 2 s; predict_timeout")
        wait_for_metric(server.url, WAITING, 0, 2)
        wait_for_metric(server.url, RUNNING, 1, 2)


def test_whole_answer_that_takes_too_long(server: LmiProcess) -> None:
    """Without stream the first output is the whole answer."""
    body = {"prompt": "Tell", **LONG}
    answers = [httpx.post(f"{server.url}{path}", json=body, timeout=20) for path in ("/invocations", "/v1/completions")]
    assert [answer.status_code for answer in answers] == [504, 504]
    assert answers[0].json()["type"] == "TranslateException"
    assert answers[1].json()["error"]["type"] == "Gateway Timeout"
    wait_for_metric(server.url, RUNNING, 0, 2)


def test_engine_that_hangs(server: LmiProcess) -> None:
    """`/ready` says so while requests wait for it, and not any more when it goes on; the process lives all the time."""
    ready = f"{server.url}/ready"
    assert httpx.get(ready).status_code == 200
    engine = server.wait_engine_pid()
    with ThreadPoolExecutor(1) as pool:
        body = {"inputs": "Tell", "stream": True, "parameters": LONG}
        running = pool.submit(httpx.post, f"{server.url}/invocations", json=body, timeout=60)
        wait_for_metric(server.url, RUNNING, 1, 10)
        os.kill(engine, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + 5
            while (answer := httpx.get(ready)).status_code == 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert answer.status_code == 503
            assert answer.json()["reasons"][0].startswith("requests wait, and nothing came from the engine for ")
            assert httpx.get(f"{server.url}/live").status_code == 200
        finally:
            os.kill(engine, signal.SIGCONT)
        assert running.result(60).status_code == 200
    assert httpx.get(ready).status_code == 200
