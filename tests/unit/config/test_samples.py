# SPDX-License-Identifier: Apache-2.0
"""The sample configurations resolve without a warning and say what their names say."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from serving.config.host import Host
from serving.config.resolve import resolve
from tests.conftest import ROOT

pytestmark = pytest.mark.pure
SAMPLES: dict[str, dict[str, Any]] = {
    "async": {"mode": "async", "tensor_parallel_size": 8},
    "rolling-batch": {"mode": "rolling_batch", "tensor_parallel_size": 8, "max_num_seqs": 64},
    "quantize-fp8": {"quantization": "fp8"},
    "quantize-bitsandbytes": {"quantization": "bitsandbytes"},
    "speculative-ngram": {
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    },
    "lora": {"enable_lora": True, "max_loras": 4, "max_lora_rank": 16},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_sample(tmp_path: Path, name: str) -> None:
    shutil.copy(ROOT / f"configs/{name}.properties", tmp_path / "serving.properties")
    (tmp_path / "config.json").write_text("{}")
    config = resolve({}, ["-s", str(tmp_path)], Host(device_count=8), tmp_path)
    shown = {"mode": config.mode.name, **config.vllm_arguments}
    assert {key: shown[key] for key in SAMPLES[name]} == SAMPLES[name]
    assert config.warnings == []


def test_every_sample_is_listed() -> None:
    files = {path.stem for path in ROOT.glob("configs/*.properties")}
    assert files == set(SAMPLES)
    text = (ROOT / "configs/README.md").read_text()
    assert all(f"`{name}.properties`" in text for name in files)
