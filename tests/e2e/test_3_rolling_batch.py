# SPDX-License-Identifier: Apache-2.0
"""LMI's other mode, weights quantized at load, and a custom handler in front: one server, configured by variables.

The handler of `examples/engine_handler` answers its own kind of body and leaves every other one to the default handler.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from serving import demo
from tests.conformance.cases import Case, cases
from tests.conformance.exchange import check, check_together
from tests.conftest import ROOT
from tests.e2e.process import LMI, LmiProcess, wait_for_metric

pytestmark = pytest.mark.engine
QUESTION = "What is LoRA?"


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmiProcess]:
    """The demo model in rolling batch, quantized to fp8, behind a handler."""
    directory = tmp_path_factory.mktemp("models") / "demo"
    shutil.copytree(demo.MODEL_DIR, directory)
    shutil.copy(ROOT / "examples/engine_handler/model.py", directory)
    env = {
        "OPTION_ROLLING_BATCH": "vllm",
        "OPTION_MAX_ROLLING_BATCH_SIZE": "64",
        "OPTION_QUANTIZE": "fp8",
        "OPTION_DEFAULT_ENGINE": "eager",
        # As `--demo` does: one process less to start.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    with LmiProcess([str(directory), "--port", "0"], env) as process:
        yield process


@pytest.mark.parametrize(
    "case", [*cases("http", "real", "rolling_batch"), *cases("schemas", "real", "rolling_batch")], ids=str
)
async def test_contract(case: Case, batch: LmiProcess, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    async with httpx.AsyncClient(base_url=batch.url, timeout=60) as client:
        await check(case, client, {"model": "demo", "long": "many words " * 3000})


@pytest.mark.parametrize("case", cases("schemas", "together", "rolling_batch"), ids=str)
async def test_contract_of_several_requests(case: Case, batch: LmiProcess, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    async with httpx.AsyncClient(base_url=batch.url, timeout=60) as client:
        await check_together(case, client)


def test_start(batch: LmiProcess) -> None:
    assert any(
        "handler: handle of " in line and "/demo/model.py in a process of its own" in line for line in batch.output
    )
    assert any("handler: rolling_batch, because rolling_batch=vllm" in line for line in batch.output)
    assert any("quantize=fp8 is fp8_per_channel on CPU" in line for line in batch.output)
    assert any("quantization=fp8_per_channel," in line for line in batch.output)


@pytest.mark.parametrize("adapter", [None, *demo.adapter_names()])
def test_every_answer(batch: LmiProcess, adapter: str | None) -> None:
    """All questions at once, each answered with its sentence, streamed and not."""
    answers = demo.answers(adapter)

    def ask(question: str, stream: bool) -> str:
        body = {"inputs": question, "stream": stream, "parameters": {"max_new_tokens": 60}}
        body |= {"adapters": adapter} if adapter else {}
        text = httpx.post(f"{batch.url}/invocations", json=body, timeout=60).text
        return str(json.loads(text.strip().split("\n")[-1])["generated_text"])

    with ThreadPoolExecutor(16) as pool:
        for stream in (False, True):
            assert list(pool.map(lambda question: ask(question, stream), answers)) == list(answers.values())  # noqa: B023


def test_greedy_unless_told_otherwise(batch: LmiProcess) -> None:
    """The model's generation config plays no part; sampling takes `do_sample` or a temperature."""
    prompt = {"inputs": "Tell", "parameters": {"max_new_tokens": 20, "min_tokens": 20, "details": True}}
    hot = {**prompt, "parameters": {**prompt["parameters"], "temperature": 2.0, "top_k": 0}}  # type: ignore[dict-item]
    answers = [
        httpx.post(f"{batch.url}/invocations", json=body, timeout=60).json() for body in [prompt] * 3 + [hot] * 3
    ]
    texts = [answer["generated_text"] for answer in answers]
    assert len(set(texts[:3])) == 1
    assert len(set(texts[3:])) == 3


def test_client_that_leaves(batch: LmiProcess) -> None:
    body = {"inputs": "Tell", "stream": True, "parameters": {"max_new_tokens": 2000, "min_tokens": 2000}}
    with httpx.stream("POST", f"{batch.url}/invocations", json=body) as answer:
        assert next(answer.iter_lines())
    wait_for_metric(batch.url, "vllm:num_requests_running", 0, 2)


@pytest.mark.parametrize("voice", [None, *demo.adapter_names()])
def test_handler_generates_on_the_engine(batch: LmiProcess, voice: str | None) -> None:
    body = {"question": QUESTION, **({"voice": voice} if voice else {})}
    answer = httpx.post(f"{batch.url}/invocations", json=body, timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"answer": demo.answers(voice)[QUESTION]})
    assert "x-custom-handler-fallback" not in answer.headers


def test_handler_streams_from_the_engine(batch: LmiProcess) -> None:
    body = {"question": QUESTION, "stream": True}
    with httpx.stream("POST", f"{batch.url}/invocations", json=body, timeout=60) as answer:
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert answer.headers["content-type"] == "application/jsonlines"
    assert "".join(line["text"] for line in lines).removesuffix("</s>") == demo.answers(None)[QUESTION]
    assert len(lines) > 5


def test_reload_from_the_command_line(batch: LmiProcess) -> None:
    done = subprocess.run([LMI, "reload", "--url", batch.url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "Model demo reloaded\n"), done.stderr
    answer = httpx.post(f"{batch.url}/invocations", json={"question": QUESTION}, timeout=60)
    assert answer.json() == {"answer": demo.answers(None)[QUESTION]}
