# SPDX-License-Identifier: Apache-2.0
"""Typed values of vLLM's arguments from text, and back to tokens for vLLM's parser."""

import pytest

from serving.config.values import PARSERS
from serving.config.vllm_arguments import REFUSED, arguments, by_flag

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("name", "text", "value", "tokens"),
    [
        ("enforce_eager", "yes", True, ["--enforce-eager"]),
        ("enforce_eager", "0", False, ["--no-enforce-eager"]),
        ("disable_log_stats", "true", True, ["--disable-log-stats"]),
        ("disable_log_stats", "false", False, []),
        ("max_num_seqs", "64.0", 64, ["--max-num-seqs=64"]),
        ("max_model_len", "16K", 16384, ["--max-model-len=16384"]),
        ("max_model_len", "auto", -1, ["--max-model-len=-1"]),
        ("gpu_memory_utilization", "0.85", 0.85, ["--gpu-memory-utilization=0.85"]),
        ("tokenizer", "-x y", "-x y", ["--tokenizer=-x y"]),
        ("max_lora_rank", "16", 16, ["--max-lora-rank=16"]),
        ("convert", "none", "none", ["--convert=none"]),
        ("limit_mm_per_prompt", "image=4", {"image": 4}, ['--limit-mm-per-prompt={"image": 4}']),
        ("speculative_config", '{"model": "m"}', {"model": "m"}, ['--speculative-config={"model": "m"}']),
        ("hf_overrides", "module.function", "module.function", ["--hf-overrides=module.function"]),
        ("served_model_name", "a,b", ["a", "b"], ["--served-model-name", "a", "b"]),
        ("served_model_name", ",", [], []),
        ("middleware", "a.b,c.d", ["a.b", "c.d"], ["--middleware=a.b", "--middleware=c.d"]),
        ("hf_token", "true", "true", ["--hf-token"]),
        ("hf_token", "abc", "abc", ["--hf-token=abc"]),
        ("download_dir", "None", None, []),
        ("max_cpu_loras", "null", None, []),
        ("max_model_len", "", None, []),
    ],
)
def test_text_to_value_to_tokens(name: str, text: str, value: object, tokens: list[str]) -> None:
    argument = arguments()[name]
    parsed = argument.parse(text)
    assert parsed == value
    assert type(parsed) is type(value)
    assert argument.tokens(parsed) == tokens


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("max_lora_rank", "17", "expected one of 1, 8, 16, 32, 64, 128, 256, 320, 512"),
        ("convert", "text", "expected one of auto, classify, embed, none"),
        ("max_num_seqs", "many", "expected a whole number"),
        ("limit_mm_per_prompt", "image:4", "expected JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_text_that_does_not_fit(name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^expected") as raised:
        arguments()[name].parse(text)
    assert str(raised.value) == message


def test_every_argument_can_be_read_and_handed_over() -> None:
    for name, argument in arguments().items():
        assert argument.kind in PARSERS, name
        assert argument.flags[0].startswith("--"), name
        assert not argument.flags[0].startswith("--no-"), name
        assert all(by_flag()[flag] is argument for flag in argument.flags), name


def test_refused_arguments_say_what_to_do_instead() -> None:
    assert set(REFUSED) <= set(arguments())
    assert all(REFUSED.values())
