# SPDX-License-Identifier: Apache-2.0
"""Typed values reach vLLM's namespace as they are, through its own parser."""

from pathlib import Path

import pytest

from serving.config.host import Host
from serving.config.resolve import resolve
from serving.config.vllm_arguments import arguments
from serving.engine.engine_args import namespace
from serving.errors import ConfigError
from tests.conftest import ROOT

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("max_model_len", "16K", 16384),
        ("max_model_len", "auto", -1),
        ("max_num_seqs", "7", 7),
        ("gpu_memory_utilization", "0.5", 0.5),
        ("enforce_eager", "yes", True),
        ("enable_prefix_caching", "off", False),
        ("disable_log_stats", "false", False),
        ("disable_log_stats", "true", True),
        ("served_model_name", "a,b", ["a", "b"]),
        ("cudagraph_capture_sizes", "[1, 2, 4]", [1, 2, 4]),
        ("speculative_config", "{'method': 'ngram', 'num_speculative_tokens': 3}",
         {"method": "ngram", "num_speculative_tokens": 3}),
        ("limit_mm_per_prompt", '{"image": 4}', {"image": 4}),
        ("hf_overrides", '{"rope_theta": 1.0}', {"rope_theta": 1.0}),
        ("chat_template", "{{ messages }}", "{{ messages }}"),
        ("tokenizer", "-odd/name.x", "-odd/name.x"),
        ("middleware", "a.b,c.d", ["a.b", "c.d"]),
        ("hf_token", "true", True),
        ("hf_token", "hf_x", "hf_x"),
        ("allowed_origins", '["https://a"]', ["https://a"]),
    ],
)  # fmt: skip
def test_value(name: str, text: str, expected: object) -> None:
    value = arguments()[name].parse(text)
    assert getattr(namespace({name: value}), name) == expected


def test_nested_config() -> None:
    value = arguments()["compilation_config"].parse('{"mode": 3, "cudagraph_capture_sizes": [1, 2]}')
    config = namespace({"compilation_config": value}).compilation_config
    assert (config.mode, config.cudagraph_capture_sizes) == (3, [1, 2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kv_transfer_config": {"nope": 1}}, "nope"),
        ({"enable_auto_tool_choice": True}, "requires --tool-call-parser"),
        ({"enable_auto_tool_choice": True, "tool_call_parser": "nope"}, "invalid tool call parser: nope"),
        ({"chat_template": "missing.jinja"}, "missing.jinja"),
    ],
)
def test_refused_by_vllm(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        namespace(values)
    assert caught.value.problems[0].kind == "ARGPARSE"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/*.properties")), ids=lambda file: file.stem)
def test_sample(tmp_path: Path, file: Path) -> None:
    """vLLM's parser takes what the sample comes to; what it is, tests/unit/config/test_samples.py says."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "serving.properties").write_text(file.read_text())
    values = resolve({}, ["-s", str(tmp_path)], Host(device_count=1), tmp_path).vllm_arguments
    assert namespace(values).model == values["model"]
