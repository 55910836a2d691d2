# SPDX-License-Identifier: Apache-2.0
"""The two servers that are compared, as processes of their own: ours, and vLLM's through its own entry module."""

import os
import platform
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
TIMEOUT_S = 300
OURS, UPSTREAM = "lmi serve", "vllm serve"
COMMANDS = {
    OURS: [str(Path(sys.executable).parent / "lmi"), "serve"],
    UPSTREAM: [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"],
}


def machine() -> str:
    """What the figures were made on."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(port: int) -> bool:
    """The server answers its health check with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


class Served:
    """A server that is ready.

    Attributes:
        port: on the loopback address.
        process: the one that answers HTTP.
        seconds: from exec to the first 200 on `/health`.
    """

    def __init__(self, port: int, process: psutil.Process, seconds: float):
        self.port = port
        self.process = process
        self.seconds = seconds

    def cpu_s(self) -> float:
        """CPU time of the process that answers HTTP, so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def memory_mib(self) -> float:
        """What that process has for itself."""
        return float(self.process.memory_full_info().uss) / 2**20

    def metrics(self) -> str:
        """The page of metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read(), "utf-8")


@contextmanager
def served(name: str, flags: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Served]:
    """One of `COMMANDS` with `flags` until the block ends."""
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [*COMMANDS[name], *flags, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **(env or {})},
        cwd=ROOT,
    )
    try:
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() - began > TIMEOUT_S:
                raise SystemExit(f"not ready: {name} {' '.join(flags)}")
            time.sleep(0.05)
        yield Served(port, psutil.Process(process.pid), time.monotonic() - began)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
