# SPDX-License-Identifier: Apache-2.0
"""The handler of LMI's guide, character for character: it owns a `vllm.LLM`, so the server starts no engine."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serving import demo
from tests.e2e.process import LmiProcess

pytestmark = pytest.mark.engine
HANDLER = Path(__file__).parent / "data/lmi_guide_handler.py"


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmiProcess]:
    """The demo model with the guide's handler beside it; a server told nothing but the directory."""
    directory = tmp_path_factory.mktemp("models") / "guide"
    shutil.copytree(demo.MODEL_DIR, directory, ignore=shutil.ignore_patterns("serving.properties", "adapters"))
    shutil.copy(HANDLER, directory / "model.py")
    with LmiProcess([str(directory), "--port", "0"]) as process:
        yield process


def test_answers_with_its_own_engine(guide: LmiProcess) -> None:
    assert "is ready after" in "\n".join(guide.output)
    assert any("the engine starts with the first request that needs it" in line for line in guide.output)
    # Its start-up call generates from an empty prompt, which vLLM refuses; that is no reason to give it up.
    assert any("the handler's start-up call failed: " in line for line in guide.output)
    answer = httpx.post(f"{guide.url}/invocations", json={"inputs": "What is LoRA?"}, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert "x-custom-handler-fallback" not in answer.headers
    assert list(answer.json()) == ["generated_text"]
    assert "model" in answer.json()["generated_text"]


def test_other_routes_without_an_engine(guide: LmiProcess) -> None:
    assert httpx.get(f"{guide.url}/ping").json() == {"guide": {"status": "Healthy"}}
    models = httpx.get(f"{guide.url}/v1/models")
    assert (models.status_code, models.headers["retry-after"]) == (503, "1")
    assert "lmi_custom_handler_deaths_total 0.0" in httpx.get(f"{guide.url}/metrics").text


def test_nothing_is_left(guide: LmiProcess) -> None:
    """The engine that the handler started ends with the server."""
    below = psutil.Process(guide.process.pid).children(recursive=True)
    assert [one for one in below if any("EngineCore" in word for word in one.cmdline())]
    guide.signal(signal.SIGTERM)
    assert guide.wait(30) == 0
    deadline = time.monotonic() + 5
    while (left := [one.pid for one in below if _is_alive(one)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert not os.path.exists(f"/proc/{guide.process.pid}")


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
