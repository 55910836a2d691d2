# SPDX-License-Identifier: Apache-2.0
"""Client programs that start their server themselves, and one file of settings for both sides."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import yaml

from serving import demo, vllm_shim
from tests.conftest import ROOT
from tests.e2e.process import LmiProcess
from tests.processes import left_after

pytestmark = pytest.mark.long
PROGRAMS = ROOT / "examples" / "clients"
ANSWERS = demo.answers()
LORA, VLLM = ANSWERS["What is LoRA?"], ANSWERS["What is vLLM?"]


def run(command: Sequence[object], **env: str) -> list[str]:
    """The lines that a program prints on its standard output."""
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | env
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, env=variables, check=False)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("kani_openai.py", [f"chat: {LORA}", f"stream: {VLLM}", "function: It rains."]),
        ("kani_native.py", [f"chat: {LORA}", f"again: {VLLM}"]),
    ],
)
def test_kani_starts_the_server(program: str, expected: list[str], tmp_path: Path) -> None:
    """`vllm serve` is this server; its flags have underscores, and nothing of it is left when kani closes it."""
    vllm_shim.install(tmp_path)
    seen: dict[int, psutil.Process] = {}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(1):
            for process in psutil.Process().children(recursive=True):
                seen.setdefault(process.pid, process)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        lines = run([PROGRAMS / program, demo.MODEL_DIR], PATH=f"{tmp_path}:{os.environ['PATH']}")
    finally:
        is_over.set()
        watcher.join()
    assert [line for line in lines if line in expected] == expected
    assert any(line.startswith("lmi: model") and " is ready after " in line for line in lines)
    assert len(seen) >= 3  # the program, the server and its engine at least
    assert left_after(seen.values(), 5) == []


def test_agent_arena(tmp_path: Path) -> None:
    """The file with a block `backend` starts the server, and the client that reads it too waits until it is ready."""
    settings = yaml.safe_load((PROGRAMS / "agent_arena.yaml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = {"host": "127.0.0.1", "port": port, "api_base": f"http://127.0.0.1:{port}/v1"}
    settings["backend"] |= {"model": str(demo.MODEL_DIR), **address}
    file = tmp_path / "agent_arena.yaml"
    file.write_text(yaml.safe_dump(settings))
    client = [PROGRAMS / "agent_arena.py", file]
    server = LmiProcess(["--config", str(file)])
    try:
        assert run(client) == ["available: False"]
        assert server.wait_ready().url == f"http://127.0.0.1:{port}"
        assert run(client) == [
            "available: True",
            f"text: {LORA} stop 22",
            f"tools: native {ANSWERS['Who are you?']} None",
            "tools in words: fallback",
        ]
    finally:
        server.end()
    assert any("backend.api_base (agent_arena.yaml) has no effect" in line for line in server.output)
