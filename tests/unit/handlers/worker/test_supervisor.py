# SPDX-License-Identifier: Apache-2.0
"""The worker process under its supervisor: real processes, no HTTP."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from handlers.base import InferenceRequest, InferenceResponse
from handlers.worker import supervisor as supervising
from handlers.worker.process import CallFailed, CallTimedOut, LoadError, WorkerDied, WorkerSpec
from handlers.worker.protocol import WINDOW, Opened, Reply, Start
from handlers.worker.supervisor import Supervisor, WorkerDown, WorkerRequest
from serving.errors import PayloadError
from tests.processes import is_alive

pytestmark = pytest.mark.pure
ROOT = Path(__file__).parents[4]
HEAD = """
import asyncio, os, signal, subprocess, sys, threading, time
from djl_python import Input, Output, engine
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output
state = {"sent": 0, "closed": 0, "calls": 0}
def told(inputs):
    return None if inputs.is_empty() else inputs.get_as_json()
"""
STREAMS = (
    HEAD
    + """
async def numbers(count, pause):
    try:
        for number in range(count):
            if pause: await asyncio.sleep(pause)
            state["sent"] += 1
            yield create_stream_chunk_output({"n": number}, number == count - 1)
    finally:
        state["closed"] += 1
def plainly(count):
    try:
        for number in range(count):
            state["sent"] += 1
            yield {"n": number}
    finally:
        state["closed"] += 1
async def handle(inputs):
    asked = told(inputs)
    if asked is None or asked.get("state"): return state
    return plainly(asked["count"]) if asked.get("plain") else numbers(asked["count"], asked.get("pause", 0))
"""
)


async def _no_inference(request: InferenceRequest) -> InferenceResponse:
    raise AssertionError("nobody asked for that")


@asynccontextmanager
async def running(
    directory: Path,
    code: str,
    infer: Any = _no_inference,
    num_threads: int = 4,
    on_death: Callable[[], None] = lambda: None,
    answer_s: float = 20,
) -> AsyncIterator[Supervisor]:
    """A supervisor of this code, started."""
    (directory / "model.py").write_text(code)
    start = Start(str(directory / "model.py"), None, str(directory), [], "handle", False, {}, num_threads, False)
    spec = WorkerSpec(start, sys.executable, {**os.environ, "PYTHONPATH": str(ROOT)})
    supervisor = Supervisor(spec, {}, infer, on_death, 20, answer_s)
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.close()


async def call(supervisor: Supervisor, **payload: Any) -> Any:
    """The answer's JSON, or for a stream its opened generator."""
    request = WorkerRequest({}, [], [("data", json.dumps(payload).encode())], payload.get("id", "r1"))
    worker, call_id, answer = await supervisor.call("handle", request)
    if isinstance(answer, Opened):
        return worker.chunks(call_id, answer.first, 10)
    assert isinstance(answer, Reply), answer
    return json.loads(answer.body) if answer.body else None


async def until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_long_stream_is_whole_and_in_order(tmp_path: Path, plain: bool) -> None:
    async with running(tmp_path, STREAMS) as supervisor:
        chunks = [json.loads(chunk) async for chunk in await call(supervisor, count=10_000, plain=plain)]
        assert chunks == [{"n": number} for number in range(10_000)]
        assert await call(supervisor, state=1) == {"sent": 10_000, "closed": 1, "calls": 0}


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_window_and_client_that_leaves(tmp_path: Path, plain: bool) -> None:
    """A client that stops reading stops the generator within the window; leaving closes it."""
    async with running(tmp_path, STREAMS) as supervisor:
        async with aclosing(await call(supervisor, count=100_000, plain=plain)) as chunks:
            for _ in range(5):
                await anext(chunks)
            await asyncio.sleep(0.3)
            state = await call(supervisor, state=1)
            assert 5 <= state["sent"] <= 5 + WINDOW
            assert state["closed"] == 0
        await asyncio.sleep(0.1)
        assert await call(supervisor, state=1) == {**state, "closed": 1}


async def test_cancelled_call(tmp_path: Path) -> None:
    code = (
        HEAD
        + """
async def handle(inputs):
    asked = told(inputs)
    if asked is None or asked.get("state"): return state
    try:
        await asyncio.sleep(60)
    finally:
        state["closed"] += 1
"""
    )
    async with running(tmp_path, code) as supervisor:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await call(supervisor)
        assert (await call(supervisor, state=1))["closed"] == 1


DEATHS = {
    "os._exit(5)": 5,
    "sys.exit(3)": 3,
    "os.kill(os.getpid(), 11)": -11,
    "os.kill(os.getpid(), signal.SIGKILL)": -9,
    "__import__('ctypes').string_at(0)": -11,
}


@pytest.mark.parametrize("kind", ["async def", "def"])
@pytest.mark.parametrize("death", list(DEATHS))
async def test_death(tmp_path: Path, kind: str, death: str) -> None:
    """The call ends with the exit code, a new worker is started, and nothing that the old one started is left."""
    code = (
        HEAD
        + f"""
{kind} handle(inputs):
    asked = told(inputs)
    if asked is None: return Output().add("up")
    if asked.get("die"):
        {death}
    state["calls"] += 1
    return {{**state, "child": subprocess.Popen(["sleep", "1000"]).pid, "pid": os.getpid()}}
"""
    )
    deaths = []
    async with running(tmp_path, code, on_death=lambda: deaths.append(1)) as supervisor:
        first = await call(supervisor)
        with pytest.raises(WorkerDied) as raised:
            await call(supervisor, die=1)
        assert raised.value.code == DEATHS[death]
        await until(lambda: supervisor.is_up)
        assert (await call(supervisor))["calls"] == 1
        assert supervisor.num_deaths == len(deaths) == 1
        assert not [pid for pid in (first["pid"], first["child"]) if is_alive(pid)]


async def test_death_ends_every_call_and_stream(tmp_path: Path) -> None:
    code = (
        HEAD
        + """
async def endless():
    while True:
        yield {"n": 1}
        await asyncio.sleep(0.01)
async def handle(inputs):
    asked = told(inputs)
    if asked is None: return Output()
    if asked.get("stream"): return endless()
    await asyncio.sleep(asked["s"])
    os._exit(1)
"""
    )
    async with running(tmp_path, code) as supervisor:
        stream = await call(supervisor, stream=1)
        waiting = [asyncio.create_task(call(supervisor, s=s)) for s in (30, 40, 0.2)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [WorkerDied] * 3
        with pytest.raises(WorkerDied):
            async for _ in stream:
                pass


async def test_no_worker_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the new one loads, calls are refused at once."""
    code = (
        HEAD
        + """
if os.path.exists("slow"): time.sleep(1)
async def handle(inputs):
    if not inputs.is_empty(): os._exit(1)
"""
    )
    async with running(tmp_path, code) as supervisor:
        (tmp_path / "slow").touch()
        with pytest.raises(WorkerDied):
            await call(supervisor)
        with pytest.raises(WorkerDown):
            await call(supervisor)
        assert supervisor.pid is None
        await until(lambda: supervisor.is_up)


async def test_waits_grow_until_a_call_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path, HEAD + "async def handle(inputs): return Output()") as supervisor:
        waits = []
        for number in range(9):
            supervisor._num_in_a_row = number
            waits.append(supervisor._wait_s())
        assert waits == [0, 0, 0.5, 1, 2, 4, 8, 16, 30]
        await call(supervisor)
        assert supervisor._wait_s() == 0


LOOP = (
    HEAD
    + """
KIND handle(inputs):
    asked = told(inputs)
    if asked is None: return Output()
    if asked.get("loop"):
        while True: pass
    return {"pid": os.getpid()}
"""
)


@pytest.mark.parametrize(
    ("kind", "num_threads", "is_replaced"), [("async def", 4, True), ("def", 1, True), ("def", 4, False)]
)
async def test_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, num_threads: int, is_replaced: bool
) -> None:
    """It costs the worker its life where nothing else could run beside it, and only once a call was given up."""
    monkeypatch.setattr(supervising, "_ANSWERS_S", 0.5)
    async with running(tmp_path, LOOP.replace("KIND", kind), num_threads=num_threads, answer_s=0.4) as supervisor:
        before = (await call(supervisor))["pid"]
        with pytest.raises(CallTimedOut):
            await call(supervisor, loop=1)
        await asyncio.sleep(0.8)
        await until(lambda: supervisor.is_up)
        assert ((await call(supervisor))["pid"] == before) == (not is_replaced)


async def test_reload(tmp_path: Path) -> None:
    """Calls under way end on the old code; a file that is broken changes nothing."""
    slow = "async def handle(inputs):\n    if inputs.is_empty(): return Output()\n"
    async with running(tmp_path, HEAD + slow + "    await asyncio.sleep(0.4)\n    return {'v': 1}") as supervisor:
        under_way = asyncio.create_task(call(supervisor))
        await asyncio.sleep(0.1)
        start = supervisor.start_message
        (tmp_path / "model.py").write_text(HEAD + slow + "    return {'v': 2}")
        await supervisor.reload(start)
        assert await call(supervisor) == {"v": 2}
        assert await under_way == {"v": 1}
        for broken in ("def handle(:", "raise OSError('no')", "x = 1", "import os; os._exit(3)"):
            (tmp_path / "model.py").write_text(broken)
            with pytest.raises(LoadError):
                await supervisor.reload(start)
        (tmp_path / "model.py").write_text(HEAD + "def handle(inputs): return Output(code=500, message='not today')")
        with pytest.raises(LoadError, match="Failed to initialize model: not today"):
            await supervisor.reload(start)
        assert await call(supervisor) == {"v": 2}
        assert supervisor.num_deaths == 0
        await until(lambda: len(psutil.Process().children()) == 1)


async def test_log_lines_have_the_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = (
        HEAD
        + """
import logging
print("loading")
async def handle(inputs):
    if inputs.is_empty(): return Output()
    print("half", end=" "); print("a line")
    logging.getLogger("mine").warning("logged")
    await asyncio.get_running_loop().run_in_executor(None, lambda: print("from a thread"))
    def late(): print("from a thread of its own")
    thread = threading.Thread(target=late); thread.start(); thread.join()
    print("50%\\r100%", file=sys.stderr)
    return {}
"""
    )
    caplog.set_level(logging.INFO)
    async with running(tmp_path, code) as supervisor:
        await call(supervisor, id="abc")
    lines = [(record.name, record.levelname, record.message) for record in caplog.records if "model" in record.name]
    assert lines == [
        ("model.stdout", "INFO", "loading"),
        ("model.stdout", "INFO", "half a line (request abc)"),
        ("model.mine", "WARNING", "logged (request abc)"),
        ("model.stdout", "INFO", "from a thread"),
        ("model.stdout", "INFO", "from a thread of its own"),
        ("model.stderr", "INFO", "100% (request abc)"),
    ]


ENGINE = (
    HEAD
    + """
async def handle(inputs):
    asked = told(inputs)
    if asked is None: return Output()
    try:
        if asked.get("stream"):
            return {"seen": [line["n"] async for line in engine.stream({"inputs": "x", **asked})]}
        return {"seen": await engine.generate({"inputs": "x", **asked}, adapter="a1")}
    except engine.EngineError as error:
        return {"code": error.code, "error": str(error)}
"""
)


async def test_requests_to_the_engine(tmp_path: Path) -> None:
    seen: list[InferenceRequest] = []

    async def infer(request: InferenceRequest) -> InferenceResponse:
        seen.append(request)
        payload = json.loads(request.body)
        if payload.get("bad"):
            raise PayloadError("no such thing")
        if payload.get("stream"):
            return InferenceResponse(lines(), "application/jsonlines")
        return InferenceResponse(json.dumps({"generated_text": "D:x"}).encode(), "application/json")

    async def lines() -> AsyncGenerator[bytes]:
        for number in range(500):
            yield b'{"n": %d}\n' % number

    async with running(tmp_path, ENGINE, infer) as supervisor:
        assert await call(supervisor) == {"seen": {"generated_text": "D:x"}}
        assert seen[0].headers["x-amzn-sagemaker-adapter-identifier"] == "a1"
        assert seen[0].request_id == "r1"
        assert await call(supervisor, stream=True) == {"seen": list(range(500))}
        assert await call(supervisor, bad=1) == {"code": 424, "error": "no such thing"}


async def test_request_to_the_engine_ends_with_its_call(tmp_path: Path) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def infer(request: InferenceRequest) -> InferenceResponse:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        raise AssertionError

    async with running(tmp_path, ENGINE, infer) as supervisor:
        task = asyncio.create_task(call(supervisor))
        await asyncio.wait_for(began.wait(), 5)
        task.cancel()
        await asyncio.wait_for(ended.wait(), 5)


async def test_module_that_does_not_load(tmp_path: Path) -> None:
    for code, text in {
        "import not_there": "ModuleNotFoundError: No module named 'not_there'",
        "x = 1": "AttributeError: module 'model.py' has no function 'handle'",
        "import os; os._exit(4)": "worker exited with code 4 while loading",
        "raise SystemExit(2)": "worker exited with code 2 while loading",
    }.items():
        with pytest.raises(LoadError) as raised:
            async with running(tmp_path, code):
                pass
        assert str(raised.value) == text
    assert psutil.Process().children() == []


async def test_failures(tmp_path: Path) -> None:
    code = (
        HEAD
        + """
class OutOfMemoryError(Exception): pass
async def handle(inputs):
    asked = told(inputs)
    if asked is None: return Output()
    if "value" in asked: return eval(asked["value"])
    raise eval(asked["error"])
"""
    )
    raised = {
        "ValueError(chr(0xd800))": ("runtime_error", "\\ud800"),
        "asyncio.CancelledError()": ("runtime_error", "cancelled"),
        "KeyError('k')": ("runtime_error", "KeyError: 'k'"),
        "ValueError()": ("runtime_error", "ValueError"),
        "StopIteration(1)": ("runtime_error", "coroutine raised StopIteration"),
        "MemoryError('m')": ("memory", "m"),
        "OutOfMemoryError('gpu')": ("memory", "gpu"),
        "RuntimeError('CUDA error: out of memory at x')": ("memory", "CUDA error: out of memory at x"),
    }
    returned = {
        "5": "Invalid output type: <class 'int'>",
        "Output(code=99)": "99 is no HTTP status of an answer: 200 to 599",
        "create_non_stream_output('', error='x', code=42)": "42 is no HTTP status of an answer: 200 to 599",
        "{'a': object}": "the dict is not JSON: Object of type type is not JSON serializable",
    }
    async with running(tmp_path, code) as supervisor:
        for error, expected in raised.items():
            with pytest.raises(CallFailed) as failure:
                await call(supervisor, error=error)
            assert (failure.value.reason, str(failure.value)) == expected
        for value, text in returned.items():
            with pytest.raises(CallFailed) as failure:
                await call(supervisor, value=value)
            assert (failure.value.reason, str(failure.value)) == ("invalid_return", text)


SERVER = """
import asyncio, os, sys
from handlers.worker.process import WorkerSpec
from handlers.worker.protocol import Start
from handlers.worker.supervisor import Supervisor
async def main():
    directory = sys.argv[1]
    start = Start(directory + "/model.py", None, directory, [], "handle", False, {}, 4, False)
    supervisor = Supervisor(WorkerSpec(start), {}, None)
    await supervisor.start()
    print(supervisor.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("doing", ["pass", "threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()"])
async def test_nothing_outlives_the_server(tmp_path: Path, doing: str) -> None:
    """Killed without a word, the server takes the worker and what the worker started with it."""
    code = (
        HEAD
        + f"""
child = subprocess.Popen(["sleep", "1000"])
open("child", "w").write(str(child.pid))
{doing}
async def handle(inputs): return Output()
"""
    )
    (tmp_path / "model.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    ) as server:
        assert server.stdout is not None
        pids = [int(server.stdout.readline()), int((tmp_path / "child").read_text())]
        assert [pid for pid in pids if is_alive(pid)] == pids
        server.send_signal(signal.SIGKILL)
        server.wait()
    await until(lambda: not any(is_alive(pid) for pid in pids), 2)


async def test_queue_is_no_reason_to_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call at a time: those that wait for too long are given up, and the worker goes on."""
    monkeypatch.setattr(supervising, "_ANSWERS_S", 0.9)
    code = (
        HEAD
        + """
def handle(inputs):
    if inputs.is_empty(): return Output()
    time.sleep(1)
    return {"pid": os.getpid()}
"""
    )
    async with running(tmp_path, code, num_threads=1, answer_s=2.5) as supervisor:
        pid = supervisor.pid
        results = await asyncio.gather(*(call(supervisor) for _ in range(6)), return_exceptions=True)
        kinds = [type(result) for result in results]
        # Two fit into the time; on a busy machine the second may not.
        assert kinds[0] is dict
        assert kinds[2:] == [CallTimedOut] * 4
        await asyncio.sleep(1.5)
        assert await call(supervisor) == {"pid": pid}
        assert supervisor.num_deaths == 0


async def test_what_the_users_code_cancels_itself(tmp_path: Path) -> None:
    code = (
        HEAD
        + """
async def cut():
    yield {"n": 1}
    raise asyncio.CancelledError
async def handle(inputs):
    return None if inputs.is_empty() else cut()
"""
    )
    async with running(tmp_path, code) as supervisor:
        chunks = [chunk async for chunk in await call(supervisor)]
        assert chunks == [b'{"n": 1}\n', b'{"error": "cancelled", "code": 424}\n']


async def test_log_calls_fail_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A format that does not fit, half a character, and a forked child that prints into the same socket."""
    code = (
        HEAD
        + """
import logging, multiprocessing
def chatter():
    for _ in range(200): print("x" * 2000)
async def handle(inputs):
    if inputs.is_empty(): return Output()
    logging.warning("%d items", "x")
    logging.warning("half " + chr(0xd800))
    child = multiprocessing.get_context("fork").Process(target=chatter)
    child.start()
    text = "y" * 3_000_000
    child.join()
    return {"size": len(text)}
"""
    )
    async with running(tmp_path, code) as supervisor:
        assert [await call(supervisor) for _ in range(3)] == [{"size": 3_000_000}] * 3
        assert supervisor.num_deaths == 0
    assert "half \\ud800 (request r1)" in caplog.messages


async def test_engine_that_fails_unexpectedly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def infer(request: InferenceRequest) -> InferenceResponse:
        raise RuntimeError("a bug")

    async with running(tmp_path, ENGINE, infer) as supervisor:
        answer = await call(supervisor)
    assert answer == {"code": 500, "error": "internal error; the server's log has the details"}
    assert "a bug" in caplog.text


async def test_answer_of_the_engine_that_nobody_reads(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def infer(request: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(endless(), "application/jsonlines")

    async def endless() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"{}\n"
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    code = (
        HEAD
        + """
from djl_python.lmi_vllm.vllm_async_service import service
async def handle(inputs):
    if inputs.is_empty(): return Output()
    stream = await service.inference(inputs)
    raise ValueError("not interested")
"""
    )
    async with running(tmp_path, code, infer) as supervisor:
        with pytest.raises(CallFailed, match="not interested"):
            await call(supervisor, stream=True, inputs="x")
        await asyncio.wait_for(ended.wait(), 5)


async def test_finalizer_of_a_plain_function_whose_client_left(tmp_path: Path) -> None:
    code = (
        HEAD
        + """
def handle(inputs):
    if inputs.is_empty(): return Output()
    time.sleep(0.5)
    output = Output().add("late")
    output.finalize(lambda: open("finalized", "w").close())
    return output
"""
    )
    async with running(tmp_path, code) as supervisor:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await call(supervisor)
        await until(lambda: (tmp_path / "finalized").exists())
