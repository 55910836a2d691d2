# SPDX-License-Identifier: Apache-2.0
"""What a custom handler costs: CPU per streamed chunk, time of `import djl_python`, and `/ping` beside a busy handler.

`make bench-custom`. Writes `results/custom.json` and prints the table for `results/custom.md`.
"""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil
import uvloop

from handlers.worker.process import WorkerSpec
from handlers.worker.protocol import Opened, Start
from handlers.worker.supervisor import Supervisor, WorkerRequest
from serving import demo
from tests.e2e.process import LmiProcess

RESULTS = Path(__file__).parent / "results"
NUM_CHUNKS = 20_000
NUM_IMPORTS = 15
NUM_PINGS = 1000
STREAM = """
import asyncio
from djl_python import Output
ready = Output.binary_encode({"data": '{"token": {"id": 304, "text": " LoRA", "log_prob": -0.25}}\\\\n', "last": False})
async def tokens(count):
    for _ in range(count):
        yield Output().add_property("Content-Type", "application/jsonlines").add(ready)
async def handle(inputs):
    return None if inputs.is_empty() else tokens(int(inputs.get_as_string()))
"""
BUSY = """
import time
async def handle(inputs):
    if inputs.is_empty(): return None
    payload = inputs.get_as_json()
    if payload.get("block"): time.sleep(payload["block"])
    while payload.get("loop"): pass
    return payload
"""


async def chunk_cpu() -> dict[str, float]:
    """Microseconds of CPU per chunk in the server's process and in the worker's; the generator's own work included."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "model.py").write_text(STREAM)
        start = Start(f"{directory}/model.py", None, directory, [], "handle", False, {}, 4, False)

        async def infer(request: object) -> None:
            raise AssertionError

        supervisor = Supervisor(WorkerSpec(start), {}, infer)  # type: ignore[arg-type]
        await supervisor.start()
        try:
            return await _measured(supervisor)
        finally:
            await supervisor.close()


async def _measured(supervisor: Supervisor) -> dict[str, float]:
    for count in (1000, NUM_CHUNKS):
        request = WorkerRequest({}, [], [("data", str(count).encode())], "")
        assert supervisor.pid is not None
        worker_cpu = psutil.Process(supervisor.pid).cpu_times
        before, ours = sum(worker_cpu()[:2]), time.process_time()
        worker, call_id, answer = await supervisor.call("handle", request)
        assert isinstance(answer, Opened)
        received = sum([1 async for _ in worker.chunks(call_id, answer.first, 30)])
        assert received == count
        ours, theirs = time.process_time() - ours, sum(worker_cpu()[:2]) - before
    return {"server_us": round(ours / count * 1e6, 1), "worker_us": round(theirs / count * 1e6, 1)}


def import_ms() -> float:
    """Median milliseconds of `import djl_python` in a fresh interpreter, as `-X importtime` counts them."""
    found = []
    for _ in range(NUM_IMPORTS):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import djl_python"], capture_output=True, text=True, check=True
        )
        (line,) = re.findall(r"\|\s+(\d+) \| djl_python$", done.stderr, re.MULTILINE)
        found.append(int(line) / 1000)
    return round(statistics.median(found), 1)


def ping_ms() -> dict[str, dict[str, float]]:
    """Milliseconds of `/ping` while the handler does nothing, blocks, and loops; the engine is idle."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "custom")
        shutil.copytree(demo.MODEL_DIR, directory)
        (directory / "model.py").write_text(BUSY)
        env = {"OPTION_DEFAULT_ENGINE": "eager", "OPTION_PREDICT_TIMEOUT": "100"}
        with LmiProcess([str(directory), "--port", "0"], env) as server:
            found = {"idle": _pings(server.url)}
            for name, body in {"blocked": {"block": 60}, "looping": {"loop": 1}}.items():
                thread = threading.Thread(target=_held, args=(server.url, body), daemon=True)
                thread.start()
                time.sleep(1)
                found[name] = _pings(server.url)
                for child in psutil.Process(server.process.pid).children():
                    if "handlers.worker.child" in child.cmdline():
                        child.kill()
                time.sleep(3)
            return found


def _held(url: str, body: dict[str, int]) -> None:
    httpx.post(f"{url}/invocations", json=body, timeout=200)


def _pings(url: str) -> dict[str, float]:
    seconds = []
    with httpx.Client() as client:
        for _ in range(NUM_PINGS):
            began = time.perf_counter()
            assert client.get(f"{url}/ping").status_code == 200
            seconds.append((time.perf_counter() - began) * 1000)
    seconds.sort()
    return {"p50": round(seconds[len(seconds) // 2], 2), "p99": round(seconds[int(len(seconds) * 0.99)], 2)}


def main() -> None:
    """Measures, prints the tables, writes the record."""
    cpu = uvloop.run(chunk_cpu())
    milliseconds = import_ms()
    pings = ping_ms()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    record = {
        "commit": commit,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "cpu_per_chunk": cpu,
        "import_djl_python_ms": milliseconds,
        "ping_ms": pings,
    }
    (RESULTS / "custom.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    total = cpu["server_us"] + cpu["worker_us"]
    print(f"CPU per chunk: server {cpu['server_us']} us, worker {cpu['worker_us']} us, together {total:.1f} us")
    print(f"import djl_python: {milliseconds} ms (median of {NUM_IMPORTS})")
    print("\n| handler | `/ping` p50 (ms) | p99 (ms) |\n|---|---:|---:|")
    for name, values in pings.items():
        print(f"| {name} | {values['p50']} | {values['p99']} |")


if __name__ == "__main__":
    main()
