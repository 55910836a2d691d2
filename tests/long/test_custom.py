# SPDX-License-Identifier: Apache-2.0
"""A custom handler beside the real engine: crashes under load, reloads under load, handlers that block."""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serving import demo
from tests.e2e.process import LmiProcess, metric
from tests.processes import left_after

pytestmark = pytest.mark.long
QUESTION = "What is LoRA?"
NUM_CRASHES = 200
NUM_CLIENTS = 8
CRASHES = ["exit", "segv", "kill", "sys"]
HANDLER = """
import asyncio, ctypes, os, signal, subprocess, sys, time
from djl_python import Output
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output

child = subprocess.Popen(["sleep", "100000"])

async def ticks():
    for number in range(20):
        yield create_stream_chunk_output({"tick": number}, number == 19)
        await asyncio.sleep(0.005)

async def handle(inputs):
    if inputs.is_empty():
        return None
    payload = inputs.get_as_json()
    how = payload.get("crash")
    if how == "exit": os._exit(7)
    if how == "segv": ctypes.string_at(0)
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if how == "sys": sys.exit(1)
    if payload.get("block"): time.sleep(payload["block"])
    if payload.get("loop"):
        while True: pass
    if payload.get("stream"): return ticks()
    return create_non_stream_output({"version": VERSION, "generated_text": payload["inputs"]})
"""


def code(version: int) -> str:
    return f"VERSION = {version}\n" + HANDLER


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a handler beside it."""
    directory = tmp_path_factory.mktemp("models") / "custom"
    shutil.copytree(demo.MODEL_DIR, directory)
    (directory / "model.py").write_text(code(1))
    return directory


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[LmiProcess]:
    env = {"OPTION_DEFAULT_ENGINE": "eager", "OPTION_PREDICT_TIMEOUT": "20"}
    with LmiProcess([str(directory), "--port", "0"], env) as process:
        yield process


def workers(server: LmiProcess) -> list[psutil.Process]:
    """The processes that run the handler."""
    return [
        child for child in psutil.Process(server.process.pid).children() if "handlers.worker.child" in child.cmdline()
    ]


def until_up(url: str) -> None:
    deadline = time.monotonic() + 60
    while "degraded" in httpx.get(f"{url}/models/custom").json()[0]["models"][0]:
        assert time.monotonic() < deadline, "no worker is up"
        time.sleep(0.05)


def test_crashes_under_load(server: LmiProcess) -> None:
    """Every request gets an answer: the handler's, the default one's, or an error; nothing hangs, nothing is left."""
    url = f"{server.url}/invocations"
    answers: Counter[str] = Counter()
    is_over = threading.Event()

    def crash(number: int) -> None:
        body = {"inputs": QUESTION, "parameters": {"max_new_tokens": 8}, "crash": CRASHES[number % 4]}
        answer = httpx.post(url, json=body, timeout=60)
        answers[f"crash {answer.status_code} {answer.headers.get('x-custom-handler-fallback')}"] += 1

    def load(stream: bool) -> None:
        with httpx.Client(timeout=60) as client:
            while not is_over.is_set():
                body = {"inputs": QUESTION, "parameters": {"max_new_tokens": 8}, "stream": stream}
                answer = client.post(url, json=body)
                fallback = answer.headers.get("x-custom-handler-fallback")
                is_whole = '"tick": 19' in answer.text if stream and fallback is None else "error" not in answer.text
                answers[f"load {answer.status_code} {fallback} {'whole' if is_whole else 'cut'}"] += 1

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        running = [pool.submit(load, bool(number % 2)) for number in range(NUM_CLIENTS - 1)]
        number = 0
        while metric(server.url, "lmi_custom_handler_deaths_total") < NUM_CRASHES:
            until_up(server.url)
            crash(number)
            number += 1
        is_over.set()
        for future in running:
            future.result(60)
    kinds = {kind.rsplit(" ", 1)[0] if kind.startswith("load") else kind for kind in answers}
    assert kinds <= {"crash 200 worker_died", "load 200 None", "load 200 worker_died"}, answers
    assert answers["load 200 None whole"] > NUM_CRASHES, answers
    # A stream may be cut by a crash, and then says so; an answer that is not streamed never is.
    assert answers["crash 200 worker_died"] >= NUM_CRASHES
    until_up(server.url)
    assert len(workers(server)) == 1
    assert len([one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "100000"]]) == 1
    assert httpx.get(f"{server.url}/ping").status_code == 200


def test_reload_under_load(server: LmiProcess, directory: Path) -> None:
    """Five reloads, one of a broken file, during a thousand requests: none fails, and the answers change in order."""
    until_up(server.url)
    url = f"{server.url}/invocations"
    count = 1000
    versions: list[int] = []
    lock = threading.Lock()

    def ask(_: int) -> int:
        answer = httpx.post(url, json={"inputs": QUESTION}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert "x-custom-handler-fallback" not in answer.headers
        with lock:
            versions.append(answer.json()["version"])
        return answer.status_code

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        asked = pool.map(ask, range(count))
        for version in (2, 3, None, 4, 5):
            while len(versions) < (version or 3) * count // 7:
                time.sleep(0.01)
            (directory / "model.py").write_text(code(version) if version else "def handle(:")
            answer = httpx.post(f"{server.url}/models/custom/reload", timeout=60)
            assert answer.status_code == (200 if version else 424), answer.text
        assert list(asked) == [200] * count
    assert set(versions) == {1, 2, 3, 4, 5}
    assert versions[-1] == 5
    deadline = time.monotonic() + 10
    while len(workers(server)) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers(server)) == 1


@pytest.mark.parametrize("how", [{"block": 3}, {"loop": 1}], ids=["blocks", "loops"])
def test_other_routes_go_on(server: LmiProcess, how: dict[str, int]) -> None:
    """While a handler holds its loop, probes and OpenAI's routes answer as ever, and custom requests get their 504."""
    until_up(server.url)
    body = {"inputs": QUESTION, **how}
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(httpx.post, f"{server.url}/invocations", json=body, timeout=60)
        time.sleep(0.3)
        seconds = []
        for _ in range(20):
            began = time.monotonic()
            assert httpx.get(f"{server.url}/ping").status_code == 200
            seconds.append(time.monotonic() - began)
        chat = {"prompt": QUESTION, "max_tokens": 5}
        assert httpx.post(f"{server.url}/v1/completions", json=chat, timeout=10).status_code == 200
        assert not held.done()
        assert held.result(60).status_code == (504 if "loop" in how else 200)
    assert max(seconds) < 0.5, seconds
    deadline = time.monotonic() + 30
    while (answer := httpx.post(f"{server.url}/invocations", json={"inputs": "hi"}, timeout=60)).status_code == 504 or (
        "x-custom-handler-fallback" in answer.headers
    ):
        assert time.monotonic() < deadline, answer.text
    assert answer.json()["generated_text"] == "hi"


def test_nothing_is_left(server: LmiProcess) -> None:
    (worker,) = workers(server)
    below = [worker, *worker.children(recursive=True)]
    server.signal(15)  # type: ignore[arg-type]
    assert server.wait(40) == 0
    assert left_after(below, 5) == []
    assert not os.path.exists(f"/proc/{server.process.pid}")
