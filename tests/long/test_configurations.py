# SPDX-License-Identifier: Apache-2.0
"""Configurations of LMI's users, served on the real engine as they are: from a file, and from variables.

Each test starts `lmi serve` once on the demo model and asks every question it can answer.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from serving import demo
from tests.conftest import ROOT
from tests.e2e.process import LmiProcess, metric
from tests.quantized import HAS_KERNEL, REFUSAL, make_awq

pytestmark = pytest.mark.long
SPECULATIVE = '{"method":"ngram","num_speculative_tokens":3,"prompt_lookup_max":3}'
ASYNC = {
    "OPTION_ASYNC_MODE": "true",
    "OPTION_ROLLING_BATCH": "disable",
    "OPTION_ENTRYPOINT": "djl_python.lmi_vllm.vllm_async_service",
    "TENSOR_PARALLEL_DEGREE": "max",
}
ROLLING_BATCH = {
    "TENSOR_PARALLEL_DEGREE": "max",
    "OPTION_ROLLING_BATCH": "vllm",
    "OPTION_MAX_ROLLING_BATCH_SIZE": "64",
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model store with the demo model's files and no configuration of its own."""
    shutil.copytree(demo.MODEL_DIR, tmp_path / "store", ignore=shutil.ignore_patterns("adapters"))
    (tmp_path / "store/serving.properties").unlink()
    return tmp_path / "store"


@contextmanager
def served(*arguments: str, **env: str) -> Iterator[LmiProcess]:
    """`lmi serve` on a free port until the block ends."""
    with LmiProcess([*arguments, "--port", "0"], env) as process:
        yield process


def assert_answers(process: LmiProcess, adapter: str | None = None) -> None:
    """Every question gets its sentence, word for word."""
    with httpx.Client(base_url=process.url, timeout=60) as client:
        body = {"parameters": {"max_new_tokens": 60}} | ({"adapters": adapter} if adapter else {})
        asked = {question: client.post("/invocations", json={"inputs": question} | body).json() for question in
                 demo.answers(adapter)}  # fmt: skip
    assert {question: answer.get("generated_text", answer) for question, answer in asked.items()} == demo.answers(
        adapter
    )


def warnings(process: LmiProcess) -> list[str]:
    """What the configuration had to say."""
    return [line for line in process.output if "serving.cli: " in line and "WARNING" in line]


@pytest.mark.parametrize(
    ("file", "mode"),
    [("async", "async, because async_mode=true"), ("rolling-batch", "rolling_batch, because rolling_batch=vllm")],
)
def test_mode_from_a_file(store: Path, file: str, mode: str) -> None:
    shutil.copy(ROOT / f"configs/{file}.properties", store / "serving.properties")
    with served("-s", str(store)) as process:
        assert any(line.endswith(f"handlers.resolve: default handler: {mode}") for line in process.output)
        assert warnings(process) == []
        assert_answers(process)


@pytest.mark.parametrize(
    ("env", "mode"),
    [(ASYNC, "async, because async_mode=true"), (ROLLING_BATCH, "rolling_batch, because rolling_batch=vllm")],
    ids=["async", "rolling-batch"],
)
def test_mode_from_variables(store: Path, env: dict[str, str], mode: str) -> None:
    with served(HF_MODEL_ID=str(store), **env) as process:
        assert any(line.endswith(f"handlers.resolve: default handler: {mode}") for line in process.output)
        assert warnings(process) == []
        assert_answers(process)


def test_pass_through_from_a_file(store: Path) -> None:
    """A boolean, a string and a mapping that are vLLM's own."""
    text = (ROOT / "configs/speculative-ngram.properties").read_text()
    (store / "serving.properties").write_text(f"{text}option.enable_prefix_caching=true\noption.tokenizer_mode=hf\n")
    with served("-s", str(store)) as process:
        assert_passed_through(process)


def test_pass_through_from_variables(store: Path) -> None:
    env = {
        "OPTION_ENABLE_PREFIX_CACHING": "true",
        "OPTION_TOKENIZER_MODE": "hf",
        "OPTION_SPECULATIVE_CONFIG": SPECULATIVE,
    }
    with served(HF_MODEL_ID=str(store), **env) as process:
        assert_passed_through(process)


def assert_passed_through(process: LmiProcess) -> None:
    """The engine got the three arguments, works with them, and guesses tokens."""
    engine = next(line for line in process.output if "Initializing a V1 LLM engine" in line)
    assert "SpeculativeConfig(method='ngram'" in engine
    assert "tokenizer_mode=hf" in engine
    assert "enable_prefix_caching=True" in engine
    assert warnings(process) == []
    assert_answers(process)
    with httpx.Client(base_url=process.url, timeout=60) as client:
        sampled = {"max_new_tokens": 60, "ignore_eos": True, "temperature": 2.0}
        for field in (
            {"top_k": 3},
            {"top_p": 0.9},
            {"top_k": 3, "top_p": 0.9},
            {"temperature": 0.0},
            {"details": True},
        ):
            for prompt in ("Tell", "LoRA adapts a frozen model. LoRA adapts a frozen model. LoRA adapts"):
                answer = client.post("/invocations", json={"inputs": prompt, "parameters": sampled | field})
                assert answer.status_code == 200, answer.text
    assert metric(process.url, "vllm:spec_decode_num_draft_tokens_total") > 0
    assert_answers(process)


def test_model_and_adapter_on_s3(store: Path, tmp_path: Path) -> None:
    """The model as an archive, an adapter as files; nothing is on this machine before."""
    bucket = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    bucket.start()
    host, port = bucket.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    s3 = boto3.client(
        "s3", endpoint_url=env["AWS_ENDPOINT_URL"], aws_access_key_id="x", aws_secret_access_key="x",
        region_name="us-east-1",
    )  # fmt: skip
    s3.create_bucket(Bucket="models")
    s3.upload_file(shutil.make_archive(str(tmp_path / "demo"), "gztar", store), "models", "llm/demo.tar.gz")
    for file in (demo.ADAPTERS_DIR / "pirate").iterdir():
        s3.upload_file(str(file), "models", f"adapters/pirate/{file.name}")
    shutil.rmtree(store)
    env |= {
        "HF_MODEL_ID": "s3://models/llm",
        "SERVING_DOWNLOAD_DIR": str(tmp_path / "copies"),
        "OPTION_ENABLE_LORA": "true",
        "OPTION_ADAPTER_ROOTS": "s3://models/adapters/",
        "OPTION_MAX_MODEL_LEN": "512",
    }
    try:
        with served(**env) as process:
            assert_answers(process)
            query = {"name": "pirate", "src": "s3://models/adapters/pirate"}
            answer = httpx.post(f"{process.url}/adapters", params=query, timeout=60)
            assert answer.json() == {"status": "Adapter pirate registered"}
            assert httpx.get(f"{process.url}/adapters/pirate").json()["src"] == query["src"]
            assert_answers(process, "pirate")
    finally:
        bucket.stop()


@pytest.mark.parametrize("method", ["fp8", "bitsandbytes"])
@pytest.mark.parametrize("source", ["file", "variable"])
def test_quantization_at_load(store: Path, method: str, source: str) -> None:
    """The same greedy sentences as unquantized, from weights that the engine says it quantized."""
    if source == "file":
        shutil.copy(ROOT / f"configs/quantize-{method}.properties", store / "serving.properties")
    env = {} if source == "file" else {"OPTION_QUANTIZE": method}
    with served("-s", str(store), **env) as process:
        engine = next(line for line in process.output if "Initializing a V1 LLM engine" in line)
        used = {"fp8": "fp8_per_channel", "bitsandbytes": "bitsandbytes"}[method]
        assert f"quantization={used}," in engine
        assert len(warnings(process)) == (1 if method == "fp8" else 0)
        assert_answers(process)


def test_bitsandbytes_with_adapters(tmp_path: Path) -> None:
    shutil.copytree(demo.MODEL_DIR, tmp_path / "store")
    with served("-s", str(tmp_path / "store"), OPTION_QUANTIZE="bitsandbytes") as process:
        assert_answers(process)
        assert_answers(process, "pirate")
        assert_answers(process, "brief")


@pytest.mark.parametrize(("env", "notes"), [({}, 0), ({"OPTION_QUANTIZE": "awq"}, 1)], ids=["unset", "set"])
def test_checkpoint_that_is_quantized(tmp_path: Path, env: dict[str, str], notes: int) -> None:
    """It loads with nothing set; a method that is set all the same works, and one line says to leave it out.

    A processor that cannot compute it is told.
    """
    make_awq(demo.MODEL_DIR, tmp_path / "awq")
    if not HAS_KERNEL:
        process = LmiProcess([str(tmp_path / "awq"), "--port", "0"], env)
        assert process.wait(timeout_s=240) == 1
        assert [line for line in process.output if line.startswith("lmi: error: ") and REFUSAL in line]
        return
    with served(str(tmp_path / "awq"), **env) as process:
        assert (
            len([line for line in warnings(process) if "already quantized (awq): leave quantize=awq out" in line])
            == notes
        )
        assert len(warnings(process)) == notes
        assert_answers(process)
