# SPDX-License-Identifier: Apache-2.0
"""`serving.ServerProcess`, on a small program that stands in for the server."""

import asyncio
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import serving
from serving import ServerProcess, StartFailed, all_ready
from serving.server_process import as_flags
from tests.conftest import ROOT
from tests.processes import is_alive

pytestmark = pytest.mark.pure
PROGRAM = """\
import json, os, pathlib, signal, subprocess, sys, time

mode, seen = sys.argv[1], pathlib.Path(sys.argv[2])
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], start_new_session="apart" in mode)
seen.write_text(json.dumps({"argv": sys.argv[3:], "child": child.pid, "set": os.environ.get("SET_FOR_SERVER")}))


def stop(*_):
    print("asked to stop", flush=True)
    child.kill()
    sys.exit(0)


signal.signal(signal.SIGINT, signal.SIG_IGN if "deaf" in mode else stop)
print("a line", flush=True)
if "fails" in mode:
    child.kill()
    print("lmi: error: nothing to serve", file=sys.stderr, flush=True)
    sys.exit(2)
if "slow" not in mode:
    (port_file,) = [word.partition("=")[2] for word in sys.argv if word.startswith("--port-file=")]
    pathlib.Path(port_file + "x").write_text("4711")
    os.replace(port_file + "x", port_file)
while True:
    time.sleep(60)
"""


class StandIn:
    """Makes server processes whose program is the one above, and tells what became of them."""

    def __init__(self, folder: Path):
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.seen_file = folder / "seen.json"

    def __call__(self, mode: str = "", **given: Any) -> ServerProcess:
        command = (sys.executable, "-S", str(self.program), mode, str(self.seen_file))
        return ServerProcess("org/m", command=command, **given)

    def seen(self) -> dict[str, Any]:
        return json.loads(self.seen_file.read_text())


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"tensor_parallel_size": 2}, ["--tensor-parallel-size=2"]),
        ({"enforce_eager": True, "trust-remote-code": False, "revision": None}, ["--enforce-eager"]),
        ({"hf_overrides": {"a_b": [1]}}, ['--hf-overrides={"a_b": [1]}']),
        ({"served_model_name": ["a", "b"], "port": 1}, ["--served-model-name", "a", "b", "--port=1"]),
        ({"compilation_config.pass_config": "x"}, ["--compilation-config.pass_config=x"]),
        ({"swap_space": "-1"}, ["--swap-space=-1"]),
    ],
)
def test_flags(args: dict[str, Any], words: list[str]) -> None:
    assert as_flags(args) == words


def test_life(stand_in: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
    """Ready inside the block, with the flags given; gone behind it, and asked to go only once."""
    with stand_in(args={"max_model_len": 64}, flags=["--demo"], env={"SET_FOR_SERVER": "1"}) as server:
        seen = stand_in.seen()
        assert seen["argv"][:-1] == ["org/m", "--max-model-len=64", "--demo", "--host=127.0.0.1", "--port=0"]
        assert seen["set"] == "1"
        assert (server.port, server.url, server.base_url) == (
            4711, "http://127.0.0.1:4711", "http://127.0.0.1:4711/v1"
        )  # fmt: skip
        assert server.exit_code is None
        assert is_alive(server.pid)
        with pytest.raises(RuntimeError, match="started already"):
            server.start()
    server.close()
    assert server.exit_code == 0
    assert not is_alive(seen["child"])
    assert not Path(seen["argv"][-1].removeprefix("--port-file=")).parent.exists()
    assert capfd.readouterr().err == "a line\nasked to stop\n"


def test_start_again(stand_in: StandIn) -> None:
    server = stand_in()
    with server:
        first = server.pid
    with server:
        assert server.pid != first


def test_failed_start(stand_in: StandIn) -> None:
    server = stand_in("fails").start()
    with pytest.raises(StartFailed) as raised:
        server.wait(20)
    assert (raised.value.exit_code, raised.value.last_lines) == (2, ["a line", "lmi: error: nothing to serve"])
    assert str(raised.value).endswith("with status 2 before it was ready:\na line\nlmi: error: nothing to serve")
    server.close()


def test_timeout_leaves_it_running(stand_in: StandIn) -> None:
    server = stand_in("slow").start()
    with pytest.raises(TimeoutError, match=r"not ready after 0\.2 s"):
        server.wait(0.2)
    with pytest.raises(RuntimeError, match="once wait"):
        _ = server.port
    assert server.exit_code is None
    server.close()
    assert server.exit_code in (0, -2)


@pytest.mark.parametrize("mode", ["deaf", "deaf apart"])
def test_deaf_server_is_killed_with_its_children(stand_in: StandIn, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.server_process._STOP_S", 0.2)
    monkeypatch.setattr("serving.server_process._CHILDREN_S", 0.2)
    with stand_in(mode) as server:
        pass
    assert server.exit_code == -9
    assert not is_alive(stand_in.seen()["child"])


def test_children_of_a_killed_server(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.server_process._CHILDREN_S", 0.2)
    with stand_in() as server:
        psutil.Process(server.pid).kill()
    assert server.exit_code == -9
    assert not is_alive(stand_in.seen()["child"])


def test_output_in_a_file(stand_in: StandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text("earlier\n")
    with stand_in(output=tmp_path / "log"):
        pass
    assert (tmp_path / "log").read_text() == "earlier\na line\nasked to stop\n"
    assert capfd.readouterr().err == ""


def test_several(stand_in: StandIn) -> None:
    with all_ready(stand_in(), stand_in()) as servers:
        pids = [server.pid for server in servers]
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))


def test_several_of_which_one_fails(stand_in: StandIn) -> None:
    good = stand_in()
    with pytest.raises(StartFailed), all_ready(good, stand_in("fails")):
        pytest.fail("the block must not begin")
    assert good.exit_code is not None


async def test_async(stand_in: StandIn) -> None:
    async with stand_in() as server:
        pid = server.pid
    assert not is_alive(pid)
    with pytest.raises(StartFailed):
        await stand_in("fails").__aenter__()


async def test_async_start_is_cancelled(stand_in: StandIn) -> None:
    server = stand_in("slow")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(server.__aenter__(), 0.2)
    assert server.exit_code is not None


def test_object_that_goes_away(stand_in: StandIn) -> None:
    pid = stand_in().start().wait().pid
    gc.collect()
    assert not is_alive(pid)


def test_program_that_forgets_to_close(stand_in: StandIn) -> None:
    """Its server ends with it; that of a fork's parent does not end with the fork."""
    code = f"""
import os, sys
from serving import ServerProcess
server = ServerProcess(command=[sys.executable, "-S", {str(stand_in.program)!r}, "", {str(stand_in.seen_file)!r}])
server.start().wait()
if (pid := os.fork()) == 0:
    sys.exit(0)
os.waitpid(pid, 0)
print(server.pid, server.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    pid, exit_code = done.stdout.split()
    assert (exit_code, done.returncode) == ("None", 0), done.stderr
    assert not is_alive(int(pid))


@pytest.mark.parametrize(
    ("host", "args", "url"),
    [
        ("0.0.0.0", {}, "http://127.0.0.1:4711"),
        ("::", {}, "http://[::1]:4711"),
        ("localhost", {"ssl_certfile": "/x.pem"}, "https://localhost:4711"),
    ],
)
def test_url(stand_in: StandIn, host: str, args: dict[str, str], url: str) -> None:
    with stand_in(host=host, args=args) as server:
        assert server.url == url


def test_not_started() -> None:
    server = ServerProcess("m")
    server.close()
    with pytest.raises(RuntimeError, match="was not started"):
        server.wait()


def test_default_command_is_this_pythons_server() -> None:
    done = subprocess.run(
        [*serving.server_process.COMMAND, "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.startswith("usage: lmi serve [MODEL]")


def test_import_is_lazy() -> None:
    code = "import sys, serving; print('psutil' in sys.modules, sorted(serving.__all__))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == f"False {sorted(serving.__all__)}"
    with pytest.raises(AttributeError, match="'serving' has no attribute 'nope'"):
        _ = serving.nope
