# SPDX-License-Identifier: Apache-2.0
"""The sample configurations: what each one changes on a machine it is meant for, as a file and as variables."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from serving.config.host import Host
from serving.config.options import options
from serving.config.resolve import ResolvedConfig, resolve
from tests.conftest import ROOT

pytestmark = pytest.mark.pure
FOLDER = ROOT / "configs"


@dataclass(frozen=True)
class Sample:
    """What a sample is expected to come to.

    Attributes:
        devices: GPUs of the machine.
        changes: vLLM's arguments, LMI's options and the mode, where they differ from those of an empty file there.
        model: the hub id it names; None where the model lies beside the file.
        warnings: what is said about it.
    """

    devices: int
    changes: dict[str, Any]
    model: str | None = None
    warnings: list[str] = field(default_factory=list)


SAMPLES = {
    "async": Sample(
        8,
        {
            "async_mode": True,
            "entryPoint": "djl_python.lmi_vllm.vllm_async_service",
            "rolling_batch": "disable",
        },
    ),
    "rolling-batch": Sample(8, {"mode": "rolling_batch", "rolling_batch": "vllm", "max_num_seqs": 64}),
    "tensor-parallel-max": Sample(4, {"gpu_memory_utilization": 0.9, "model_loading_timeout": 3600}),
    "quantize-fp8": Sample(1, {"quantization": "fp8"}),
    "quantize-bitsandbytes": Sample(1, {"quantization": "bitsandbytes"}),
    "quantized-checkpoint": Sample(1, {"max_model_len": 8192}, "Qwen/Qwen2.5-7B-Instruct-AWQ"),
    "lora": Sample(1, {"enable_lora": True, "max_lora_rank": 16}),
    "speculative-ngram": Sample(
        1, {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}}
    ),
    "speculative-draft": Sample(
        1,
        {
            "speculative_config": {"model": "Qwen/Qwen3-0.6B", "num_speculative_tokens": 4},
            "max_model_len": 8192,
            "max_num_seqs": 16,
        },
        "Qwen/Qwen3-8B",
    ),
    "embeddings": Sample(
        1,
        {"mode": "embedding", "task": "text-embedding", "convert": "embed", "max_num_seqs": 64},
        "BAAI/bge-base-en-v1.5",
    ),
    "vision-language": Sample(
        1,
        {
            "max_model_len": 16384,
            "limit_mm_per_prompt": {"image": 2, "video": 0},
            "mm_processor_kwargs": {"max_pixels": 1003520},
            "allowed_media_domains": ["upload.wikimedia.org"],
        },
        "Qwen/Qwen2.5-VL-7B-Instruct",
    ),
    "tool-calling": Sample(
        1,
        {"enable_auto_tool_choice": True, "tool_call_parser": "hermes", "max_model_len": 16384},
        "Qwen/Qwen2.5-7B-Instruct",
    ),
    "reasoning": Sample(
        1, {"reasoning_parser": "qwen3", "max_model_len": 32768, "predict_timeout": 600}, "Qwen/Qwen3-8B"
    ),
    "long-context": Sample(
        4,
        {
            "max_model_len": 131072,
            "kv_cache_dtype": "fp8",
            "max_num_seqs": 8,
            "max_num_batched_tokens": 8192,
            "enable_prefix_caching": True,
            "predict_timeout": 600,
        },
        "Qwen/Qwen3-4B-Instruct-2507",
    ),
    "cpu-small": Sample(
        0,
        {
            "dtype": "bfloat16",
            "max_model_len": 4096,
            "kv_cache_memory_bytes": 1024**3,
            "max_num_seqs": 8,
            "job_queue_size": 64,
        },
        "Qwen/Qwen2.5-0.5B-Instruct",
    ),
    "sagemaker": Sample(
        4,
        {
            "max_num_seqs": 64,
            "max_model_len": 8192,
            "model_loading_timeout": 1800,
            "predict_timeout": 60,
            "prometheus": True,
        },
    ),
}
ON_CPU = replace(
    SAMPLES["quantize-fp8"],
    devices=0,
    changes={"quantization": "fp8_per_channel"},
    warnings=["quantize=fp8 is fp8_per_channel on CPU"],
)
CASES = [*SAMPLES.items(), ("quantize-fp8", ON_CPU)]
cases = pytest.mark.parametrize(("name", "sample"), CASES, ids=[f"{name}-{one.devices}" for name, one in CASES])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model store with a model in it."""
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@cases
def test_file(store: Path, name: str, sample: Sample) -> None:
    plain = shown(resolved(store, sample))
    config = resolved_with_file(store, name, sample)
    assert {key: value for key, value in shown(config).items() if plain.get(key, ...) != value} == expected(sample)
    assert config.warnings == sample.warnings
    # Where every GPU counts, and where one is enough.
    assert config.vllm_arguments["tensor_parallel_size"] == max(sample.devices, 1)


@cases
def test_variables_say_the_same(store: Path, name: str, sample: Sample) -> None:
    from_variables = resolved(store, sample, variables(name))
    assert without_origins(from_variables) == without_origins(resolved_with_file(store, name, sample))


@pytest.mark.parametrize("name", SAMPLES)
def test_lines_are_explained(name: str) -> None:
    """Every setting stands under a comment, in both files, and the head says what for, with what and how."""
    for path in (FOLDER / f"{name}.properties", FOLDER / f"{name}.env"):
        lines = path.read_text().splitlines()
        assert all(line.startswith(word) for line, word in zip(lines[1:], ("# For: ", "# Needs: "), strict=False))
        assert any(line.startswith("# Start: ") for line in lines)
        for before, line in pairwise(lines):
            assert not line or line.startswith("#") or before.startswith("#"), f"{path.name}: {line}"


def test_every_sample_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.properties")} == set(SAMPLES)
    assert {path.stem for path in FOLDER.glob("*.env")} == set(SAMPLES)
    text = (FOLDER / "README.md").read_text()
    assert [name for name in SAMPLES if f"| `{name}` |" not in text] == []


def resolved(store: Path, sample: Sample, env: dict[str, str] | None = None) -> ResolvedConfig:
    return resolve(env or {}, ["-s", str(store)], Host(device_count=sample.devices), store)


def resolved_with_file(store: Path, name: str, sample: Sample) -> ResolvedConfig:
    file = store / "serving.properties"
    file.write_text((FOLDER / f"{name}.properties").read_text())
    try:
        return resolved(store, sample)
    finally:
        file.unlink()


def variables(name: str) -> dict[str, str]:
    """As `docker run --env-file` reads them: everything behind the first `=`, quotes and blanks included."""
    lines = (FOLDER / f"{name}.env").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {key: value for key, _, value in pairs}


def shown(config: ResolvedConfig) -> dict[str, Any]:
    """Everything that a sample may change, by LMI's names or vLLM's."""
    tables = config.options.model_dump(by_alias=True) | config.server.model_dump(by_alias=True)
    own = {name: value for name, value in tables.items() if options()[name].canonical == name}
    return {"mode": config.mode.name, **own, **config.vllm_arguments}


def expected(sample: Sample) -> dict[str, Any]:
    if sample.model is None:
        return sample.changes
    return {"model": sample.model, "served_model_name": ["lmi", sample.model], **sample.changes}


def without_origins(config: ResolvedConfig) -> ResolvedConfig:
    return replace(config, effective={})
