# SPDX-License-Identifier: Apache-2.0
"""Mistakes that people make, and the line that each of them gets: what, where, and what to do instead."""

from pathlib import Path

import pytest

from serving.config.document import MISTAKES, TARGET, document, said
from serving.config.host import Host
from serving.config.resolve import resolve
from serving.errors import ConfigError

pytestmark = pytest.mark.pure
WAYS = "give a model: lmi serve MODEL, or HF_MODEL_ID=MODEL, or option.model_id=MODEL in serving.properties"


@pytest.mark.parametrize(
    ("file", "env", "line"),
    [
        ("option.max_modle_len=4096", {},
         "unknown option max_modle_len (serving.properties line 1); did you mean max_model_len?"),
        ("max_model_len=4096", {},
         "max_model_len (serving.properties line 1) is read as option.max_model_len: the prefix is missing"),
        ("option.dtype=int8", {},
         "dtype='int8': expected one of auto, float32, float, fp32, float16, half, fp16, bfloat16, bf16 "
         "(serving.properties line 1)"),
        ("option.enforce_eager=true # faster start", {},
         "enforce_eager='true # faster start': expected true or false (serving.properties line 1); "
         "a comment needs a line of its own"),
        ("option.speculative_config={'method: ngram}", {},
         "speculative_config=\"{'method: ngram}\": expected JSON: Expecting property name enclosed in double quotes: "
         "line 1 column 2 (char 1) (serving.properties line 1)"),
        ("option.rolling_batch=trtllm", {},
         "rolling_batch='trtllm': it belongs to another backend; vllm, auto and disable are the values here "
         "(serving.properties line 1)"),
        ("option.rolling_batch=vllm\noption.async_mode=true", {},
         "rolling_batch=vllm and async_mode=true ask for different modes; drop async_mode=true for rolling batch, or "
         "set rolling_batch=disable for async"),
        ("option.max_rolling_batch_size=64\noption.max_num_seqs=32", {},
         "max_rolling_batch_size=64 and max_num_seqs=32 set the same option "
         "(serving.properties line 1 and serving.properties line 2); keep one of the two"),
        ("option.entryPoint=djl_python.tensorrt_llm", {},
         "entryPoint='djl_python.tensorrt_llm': it belongs to another backend; vLLM's are "
         "djl_python.lmi_vllm.vllm_async_service and djl_python.huggingface (serving.properties line 1)"),
        ("", {"OPTION_TENSOR_PARALLEL_DEGREE": "4"},
         "tensor_parallel_degree=4 x pipeline_parallel_degree=1 x data_parallel_size=1 needs 4 GPUs, 1 are visible; "
         "lower one of them"),
        ("", {"SERVING_JOB_QUEUE_SIZE": "lots"},
         "job_queue_size='lots': expected a whole number (SERVING_JOB_QUEUE_SIZE)"),
        ("option.max_lora_rank=17", {},
         "max_lora_rank='17': expected one of 1, 8, 16, 32, 64, 128, 256, 320, 512 (serving.properties line 1)"),
        ("", {"HF_MODEL_ID": "/no/such/model"},
         f"model directory '/no/such/model' does not exist (HF_MODEL_ID); {WAYS}"),
    ],
)  # fmt: skip
def test_mistake(tmp_path: Path, file: str, env: dict[str, str], line: str) -> None:
    assert said(tmp_path, file, env) == [line]


def test_document_is_current() -> None:
    assert TARGET.read_text("utf-8") == document(), "run `make docs`"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[0])
def test_mistakes_of_the_document(tmp_path: Path, mistake: tuple[str, str, dict[str, str]]) -> None:
    """Each has one answer, which names what was written."""
    _, file, env = mistake
    (line,) = said(tmp_path, file, env)
    (key, *_) = [*file.splitlines(), *env][0].split("=")
    name = key.removeprefix("option.").removeprefix("OPTION_").removeprefix("SERVING_").lower()
    assert name in line.lower() or key in line


def test_all_at_once(tmp_path: Path) -> None:
    """One start shows every problem, not only the first."""
    file = "option.dtype=int8\noption.enforce_eager=perhaps\nengine=Rust\noption.max_lora_rank=3"
    assert [line.split("=")[0] for line in said(tmp_path, file, {"OPTION_MAX_ROLLING_BATCH_SIZE": "x"})] == [
        "dtype", "max_rolling_batch_size", "engine", "enforce_eager", "max_lora_rank"
    ]  # fmt: skip


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve({}, [], Host(device_count=1), tmp_path)
    assert str(raised.value) == f"no model; {WAYS}"
