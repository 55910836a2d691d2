# SPDX-License-Identifier: Apache-2.0
"""The image's own two programs, with stand-ins for the server: the entry point and the health check."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.pure
ENTRYPOINT = ROOT / "docker/entrypoint.sh"
HEALTHCHECK = ROOT / "docker/healthcheck.py"


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """Variables of a container in which `lmi` and `other` say how they were called, and end with 7."""
    for name in ("lmi", "other"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "{name}"\nprintf " <%s>" "$@"\necho " $$ $WORD"\nexit 7\n')
        (tmp_path / name).chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin", "WORD": "kept"}


@pytest.mark.parametrize(
    ("words", "called"),
    [
        ([], "lmi <serve>"),
        (["serve"], "lmi <serve>"),
        (["serve", "-m", "a=b c", "--port", "1"], "lmi <serve> <-m> <a=b c> <--port> <1>"),
        (["--model", "org/name"], "lmi <serve> <--model> <org/name>"),
        (["other", "serve", ""], "other <serve> <>"),
        (["lmi", "config"], "lmi <config>"),
    ],
)
def test_words(programs: dict[str, str], words: list[str], called: str) -> None:
    """In the entry point's own process, with its variables, and the program's own exit code."""
    process = subprocess.Popen([ENTRYPOINT, *words], env=programs, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate(timeout=20)
    assert output == f"{called} {process.pid} kept\n"
    assert process.returncode == 7


@pytest.mark.parametrize("word", ["partition", "train"])
def test_conversion_is_refused(programs: dict[str, str], word: str) -> None:
    done = subprocess.run([ENTRYPOINT, word, "x"], env=programs, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"lmi: error: '{word}' is LMI's offline conversion, which this image does not do; 'serve' runs the server\n"
    )


def test_no_such_command(programs: dict[str, str]) -> None:
    done = subprocess.run([ENTRYPOINT, "nothing"], env=programs, capture_output=True, text=True, timeout=20)
    assert (done.returncode, "nothing: not found" in done.stderr) == (127, True)


def test_signals_are_the_servers(programs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "lmi").write_text("#!/bin/sh\ntrap 'echo told; exit 5' TERM\necho up\nwhile :; do sleep 0.05; done\n")
    process = subprocess.Popen([ENTRYPOINT, "serve"], env=programs, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "told\n"
    assert process.returncode == 5


class Ping(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ping" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that is well at /ping alone."""
    server = HTTPServer(("127.0.0.1", 0), Ping)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def checked(**env: str) -> tuple[int, str]:
    # The interpreter of the tests with the flags of the script's first line, which names Debian's.
    command = [sys.executable, "-ISB", str(HEALTHCHECK)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout + done.stderr


def test_healthy(port: int) -> None:
    """Whatever proxy is set is not asked."""
    assert checked(SAGEMAKER_BIND_TO_PORT=str(port), http_proxy="http://127.0.0.1:9") == (
        0,
        f"http://127.0.0.1:{port}/ping: 200\n",
    )


def test_unhealthy(port: int) -> None:
    assert checked(LMI_HEALTH_URL=f"http://127.0.0.1:{port}/else") == (1, f"http://127.0.0.1:{port}/else: 503\n")
    code, said = checked(SAGEMAKER_BIND_TO_PORT="9")
    assert (code, "Connection refused" in said) == (1, True)
    code, said = checked(LMI_HEALTH_URL="nonsense")
    assert (code, said.startswith("nonsense: unknown url type")) == (1, True)


def test_programs_can_be_run() -> None:
    assert [file.name for file in (ENTRYPOINT, HEALTHCHECK) if not os.access(file, os.X_OK)] == []
    assert HEALTHCHECK.read_text().startswith("#!/usr/bin/python3 -ISB\n")
