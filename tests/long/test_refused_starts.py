# SPDX-License-Identifier: Apache-2.0
"""Starts that fail late, when the engine's own process or a large import was needed to know it."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from serving import demo
from tests.e2e.refusals import refused

pytestmark = pytest.mark.long


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_vision_model_without_torchvision(tmp_path: Path) -> None:
    for path in demo.MODEL_DIR.glob("token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = {"model_type": "llama", "hidden_size": 128, "num_attention_heads": 4, "vocab_size": 768}
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": text,
              "vision_config": {"model_type": "clip_vision_model", "image_size": 56}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, (line,) = refused(str(tmp_path), "--port", "0")
    assert code == 1
    assert "models that see images need torchvision" in line
    assert "pip install torchvision==" in line


def test_model_without_weights(tmp_path: Path) -> None:
    """The reason stands only in the output of the engine's own process."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((demo.MODEL_DIR / name).read_bytes())
    code, (line,) = refused(str(tmp_path), "--port", "0", "--enforce-eager")
    assert code == 1
    assert "the engine does not start" in line
    assert "Cannot find any model weights" in line
