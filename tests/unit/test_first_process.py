# SPDX-License-Identifier: Apache-2.0
"""The server as a container's first process: its child's exit code, its signals, and everybody's orphans.

A process that asked to be its descendants' subreaper stands for process 1.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from serving import first_process

pytestmark = pytest.mark.pure
SUBREAPER = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"


def started(work: str) -> subprocess.Popen[str]:
    """A first process whose child runs the body `work`."""
    code = f"{SUBREAPER}\nimport os, signal, subprocess, sys, time\nfrom serving import first_process\n"
    body = "\n".join(f"    {line}" for line in work.splitlines())
    code += f"def work():\n{body}\nsys.exit(first_process.in_child(work))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + 20
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline, f"no {file.name}"
        time.sleep(0.02)
    return file.read_text()


@pytest.mark.parametrize(
    ("work", "code"),
    [
        ("return 0", 0),
        ("return 7", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("raise SystemExit(3)", 3),
    ],
)
def test_exit_code(work: str, code: int) -> None:
    process = started(work)
    assert process.wait(20) == code
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_is_handed_on(tmp_path: Path, number: signal.Signals) -> None:
    """The child hears it once, in a session of its own; its answer is the exit code."""
    ready = tmp_path / "ready"
    process = started(
        f"heard = []\nsignal.signal({number}, lambda it, _: heard.append(it))\n"
        f"open({str(ready)!r}, 'w').write('x')\n"
        "while not heard: time.sleep(0.02)\n"
        "time.sleep(0.1)\nprint(heard == [heard[0]], os.getsid(0) == os.getpid(), flush=True)\nreturn heard[0]"
    )
    wait_for(ready)
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == "True True\n"
    assert process.returncode == number


def test_orphans_are_waited_for(tmp_path: Path) -> None:
    """A grandchild whose parent has gone ends, and no zombie is left of it."""
    file = tmp_path / "orphan"
    process = started(
        f"subprocess.run(['sh', '-c', '(sleep 0.2; exit 5) & echo $! > {file}'])\ntime.sleep(30)\nreturn 0"
    )
    try:
        orphan = int(wait_for(file))
        deadline = time.monotonic() + 20
        while psutil.pid_exists(orphan):
            assert time.monotonic() < deadline, psutil.Process(orphan).status()
            time.sleep(0.02)
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
        assert process.stdout is not None
        process.stdout.close()


def test_anywhere_else_nothing_is_forked() -> None:
    pid = psutil.Process().pid
    assert first_process.run(lambda: psutil.Process().pid) == pid
