# SPDX-License-Identifier: Apache-2.0
"""A handler that owns a `vllm.LLM`: LMI's guide's, character for character. The server starts no engine.

Its management routes are at an address of their own. `tests/long/test_own_engine.py` has our example.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from serving import demo
from tests.conftest import ROOT
from tests.e2e.process import LMI, LmiProcess
from tests.processes import left_after

pytestmark = pytest.mark.engine
QUESTION = "What is LoRA?"
HANDLER = ROOT / "tests/e2e/data/lmi_guide_handler.py"


@contextmanager
def serving_with(handler: Path, directory: Path) -> Iterator[LmiProcess]:
    """The demo model in `directory` with the handler beside it; a server told nothing but the directory."""
    shutil.copytree(demo.MODEL_DIR, directory, ignore=shutil.ignore_patterns("serving.properties", "adapters"))
    shutil.copy(handler, directory / "model.py")
    env = {"SERVING_MANAGEMENT_ADDRESS": "http://127.0.0.1:0"}
    with LmiProcess([str(directory), "--port", "0"], env) as process:
        yield process


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmiProcess]:
    with serving_with(HANDLER, tmp_path_factory.mktemp("models") / "guide") as process:
        yield process


def test_answers_with_its_own_engine(served: LmiProcess) -> None:
    assert "is ready after" in "\n".join(served.output)
    assert any("the engine starts with the first request that needs it" in line for line in served.output)
    answer = httpx.post(f"{served.url}/invocations", json={"inputs": QUESTION}, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert "x-custom-handler-fallback" not in answer.headers
    # The guide's start-up call generates from an empty prompt, which vLLM refuses; that is no reason to give it up.
    assert any("the handler's start-up call failed: " in line for line in served.output)
    # It samples.
    assert list(answer.json()) == ["generated_text"]
    assert "model" in answer.json()["generated_text"]


def test_other_routes_without_an_engine(served: LmiProcess) -> None:
    assert [*httpx.get(f"{served.url}/ping").json().values()] == [{"status": "Healthy"}]
    models = httpx.get(f"{served.url}/v1/models")
    assert (models.status_code, models.headers["retry-after"]) == (503, "1")
    assert "lmi_custom_handler_deaths_total 0.0" in httpx.get(f"{served.url}/metrics").text


def test_management_at_its_own_address(served: LmiProcess) -> None:
    (line,) = [line for line in served.output if "is ready after" in line]
    url = line.split("management at ")[1].removesuffix(". Try:")
    assert url != served.url
    (model,) = httpx.get(f"{url}/models").json()["models"]
    assert (model["status"], httpx.get(f"{served.url}/models").status_code) == ("READY", 404)
    assert httpx.get(f"{url}/ping").json() == httpx.get(f"{served.url}/ping").json()
    assert httpx.post(f"{url}/invocations", json={"inputs": QUESTION}).status_code == 404
    assert [httpx.get(f"{one}/v1/models").status_code for one in (url, served.url)] == [404, 503]
    done = subprocess.run([LMI, "reload", "--url", served.url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "answers 404" in done.stderr) == (1, True)


def test_nothing_is_left(served: LmiProcess) -> None:
    assert_nothing_is_left(served)


def assert_nothing_is_left(served: LmiProcess) -> None:
    """The engine that the handler started ends with the server."""
    below = psutil.Process(served.process.pid).children(recursive=True)
    assert [one for one in below if any("EngineCore" in word for word in one.cmdline())]
    served.signal(signal.SIGTERM)
    assert served.wait(30) == 0
    assert left_after(below, 5) == []
    assert not os.path.exists(f"/proc/{served.process.pid}")
