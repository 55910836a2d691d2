# SPDX-License-Identifier: Apache-2.0
"""`lmi serve` as a process: started, waited for, looked into, ended. Used by the end-to-end tests alone."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import httpx
import psutil

LMI = str(Path(sys.executable).parent / "lmi")
START_TIMEOUT_S = 480


class LmiProcess:
    """One server process with a session of its own, so that nothing it starts outlives the tests unseen.

    Attributes:
        output: the lines printed so far, standard output and error together.
        command: the curl line that the server printed when it was ready.
    """

    def __init__(
        self, arguments: Sequence[str], env: dict[str, str] | None = None, command: Sequence[str] = (LMI, "serve")
    ):
        self.output: list[str] = []
        self.command = ""
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.rstrip("\n"))
            if line.startswith("curl "):
                self.command = line.strip()
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> "LmiProcess":
        """Ready when the block begins, gone when it ends."""
        return self.wait_ready()

    def __exit__(self, *_: object) -> None:
        self.end()

    def wait_ready(self) -> "LmiProcess":
        """Returns once the server said that it is ready; fails with its output if it does not."""
        self._ready.wait(START_TIMEOUT_S)
        if not self.command:
            self.end()
            raise AssertionError("the server did not get ready:\n" + "\n".join(self.output[-60:]))
        return self

    @property
    def url(self) -> str:
        """Where it listens."""
        match = re.search(r"http://[\d.]+:\d+", self.command)
        assert match is not None
        return match[0]

    def children(self) -> list[int]:
        """Every process of its session but itself: the engine's."""
        found = []
        for process in psutil.process_iter(["status"]):
            with suppress(ProcessLookupError):
                if os.getsid(process.pid) == self.process.pid and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return [pid for pid in found if pid != self.process.pid]

    def wait_engine_pid(self, timeout_s: float = 0) -> int:
        """The process that runs vLLM's engine, by its title; the short-lived helpers of a start do not count."""
        deadline = time.monotonic() + timeout_s
        while True:
            for pid in self.children():
                with suppress(OSError):
                    if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        return pid
            assert time.monotonic() <= deadline, "no EngineCore process:\n" + "\n".join(self.output[-60:])
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """Signals the server's process alone."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Its exit code; fails when it is still there after `timeout_s`."""
        code = self.process.wait(timeout_s)
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def left_behind(self, timeout_s: float = 5) -> list[int]:
        """What is still there of its children a moment after its end; Python's resource tracker needs that moment."""
        deadline = time.monotonic() + timeout_s
        while (children := self.children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return children

    def end(self) -> None:
        """Whatever state it is in, afterwards neither it nor a child is there."""
        if self.process.poll() is None:
            self.signal(signal.SIGINT)
            try:
                self.process.wait(25)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.wait()
        for pid in self.children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@cache
def _client() -> httpx.Client:
    """One client for every look at the metrics: making one costs more than a request."""
    return httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0))


def metric(url: str, name: str) -> float:
    """The sum of one of vLLM's metrics over its labels."""
    text = _client().get(f"{url}/metrics").text
    values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    assert values, f"no metric {name}"
    return sum(values)


def wait_for_metric(url: str, name: str, value: float, timeout_s: float) -> None:
    """Polls until the metric has this value; fails with the values seen instead."""
    deadline, seen = time.monotonic() + timeout_s, []
    while (latest := metric(url, name)) != value:
        seen.append(latest)
        assert time.monotonic() < deadline, f"{name} is not {value} within {timeout_s} s but {sorted(set(seen))}"
        time.sleep(0.05)
