# SPDX-License-Identifier: Apache-2.0
"""`serving.ServerProcess` with the real server: several at once, a kill, a start that fails."""

from pathlib import Path

import httpx
import openai
import psutil
import pytest

from serving import ServerProcess, StartFailed, all_ready, demo
from tests.processes import left_after

pytestmark = pytest.mark.long
QUESTION = "What is LoRA?"
START_TIMEOUT_S = 240


def answer(server: ServerProcess) -> str:
    client = openai.OpenAI(base_url=server.base_url, api_key="EMPTY", timeout=60)
    completion = client.chat.completions.create(
        model=client.models.list().data[0].id, messages=[{"role": "user", "content": QUESTION}], max_tokens=40
    )
    return completion.choices[0].message.content or ""


def family(server: ServerProcess) -> list[psutil.Process]:
    main = psutil.Process(server.pid)
    return [main, *main.children(recursive=True)]


def test_two_at_once(tmp_path: Path) -> None:
    """On free ports of the loopback interface, each with its own flags; none is left behind."""
    first = ServerProcess(demo.MODEL_DIR, {"max_model_len": 512}, output=tmp_path / "first.log")
    second = ServerProcess(args={"demo": True, "served_model_name": "other"}, output=tmp_path / "second.log")
    with all_ready(first, second, timeout_s=START_TIMEOUT_S) as servers:
        assert len({server.port for server in servers}) == 2
        assert [answer(server) for server in servers] == [demo.answers()[QUESTION]] * 2
        models = [httpx.get(f"{server.base_url}/models").json()["data"][0] for server in servers]
        assert (models[0]["max_model_len"], models[1]["id"]) == (512, "other")
        listening = [
            connection.laddr.ip
            for server in servers
            for connection in psutil.Process(server.pid).net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == server.port
        ]
        assert listening == ["127.0.0.1", "127.0.0.1"]
        started = [process for server in servers for process in family(server)]
    assert [server.exit_code for server in servers] == [0, 0]
    assert left_after(started, 2) == []
    assert "is ready after" in (tmp_path / "first.log").read_text()


def test_killed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    """The engine is a process of its own here, and outlives a killed parent for a moment."""
    with ServerProcess(demo.MODEL_DIR, output=tmp_path / "log") as server:
        started = family(server)
        assert any("EngineCore" in " ".join(process.cmdline()) for process in started)
        started[0].kill()
    assert server.exit_code == -9
    assert left_after(started, 2) == []


def test_close_while_loading(tmp_path: Path) -> None:
    server = ServerProcess(demo.MODEL_DIR, output=tmp_path / "log").start()
    with pytest.raises(TimeoutError):
        server.wait(5)
    started = family(server)
    server.close()
    server.close()
    assert server.exit_code == 0
    assert left_after(started, 2) == []


def test_failed_start(tmp_path: Path) -> None:
    with pytest.raises(StartFailed) as raised, ServerProcess(tmp_path / "nothing", {"max_modle_len": 4}):
        pytest.fail("the block must not begin")
    assert raised.value.exit_code == 2
    assert "unknown flag --max-modle-len; did you mean --max-model-len?" in raised.value.last_lines[-1]
