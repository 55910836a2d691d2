# SPDX-License-Identifier: Apache-2.0
"""Names of the past: read as what they are called now, or reported; never lost in silence."""

import pytest

from serving import demo
from serving.config.host import Host
from serving.config.options import options
from serving.config.past import FLAGS, IGNORED, REPLACED, by_flag
from serving.config.resolve import ResolvedConfig, resolve
from serving.config.vllm_arguments import arguments
from serving.config.vllm_arguments import by_flag as present_flags
from serving.errors import ConfigError

pytestmark = pytest.mark.pure


def resolved(**env: str) -> ResolvedConfig:
    options = {f"OPTION_{name.upper()}": text for name, text in env.items()}
    return resolve(options, ["org/m"], Host(device_count=1), demo.MODEL_DIR)


@pytest.mark.parametrize(
    ("given", "argument", "value"),
    [
        ({"guided_decoding_backend": "xgrammar:no-fallback"}, "structured_outputs_config", {"backend": "xgrammar"}),
        ({"cuda_graph_sizes": "20"}, "cudagraph_capture_sizes", ["1", "2", "4", "8", "16"]),
        ({"cuda_graph_sizes": "[1, 6]"}, "cudagraph_capture_sizes", ["1", "6"]),
        ({"rope_scaling": '{"factor": 2}'}, "hf_overrides", {"rope_parameters": {"factor": 2}}),
        ({"override_pooler_config": '{"pooling_type": "CLS"}'}, "pooler_config", {"pooling_type": "CLS"}),
        ({"disable_mm_preprocessor_cache": "true"}, "mm_processor_cache_gb", 0.0),
        ({"disable_mm_preprocessor_cache": "false"}, "mm_processor_cache_gb", None),
        ({"worker_use_ray": "true"}, "distributed_executor_backend", "ray"),
        ({"num_redundant_experts": "2"}, "eplb_config", {"num_redundant_experts": 2}),
        ({"draft_model_id": "d"}, "speculative_config", {"model": "d", "num_speculative_tokens": 4}),
        ({"spec_length": "3"}, "speculative_config", None),
        ({"speculative_model": "d", "speculative_config": '{"model": "e"}'}, "speculative_config", {"model": "e"}),
    ],
)
def test_replaced(given: dict[str, str], argument: str, value: object) -> None:
    config = resolved(**given)
    assert config.vllm_arguments.get(argument) == value
    if value is not None:
        assert config.warnings


def test_value_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError) as raised:
        resolved(num_redundant_experts="two", rope_scaling="[1]")
    assert [problem.text for problem in raised.value.problems] == [
        "num_redundant_experts='two': expected a whole number", "rope_scaling='[1]': expected a JSON object"
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(name for name in IGNORED if name.islower() and "." not in name))
def test_ignored(name: str) -> None:
    (warning,) = resolved(**{name: "1"}).warnings
    assert warning == f"{name} (OPTION_{name.upper()}) has no effect: {IGNORED[name]}"


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        ("--swap-space 4", f"swap_space (command line --swap-space) has no effect: {IGNORED['swap_space']}"),
        (
            "--lora_extra_vocab_size=256",
            "lora_extra_vocab_size (command line --lora_extra_vocab_size) has no effect: vLLM serves no adapters with "
            "a vocabulary of their own any more",
        ),
        (
            "--rope-theta 2",
            "rope_theta (command line --rope-theta) is read as hf_overrides.rope_theta=2.0: vLLM has renamed it",
        ),
    ],
)
def test_flag_of_the_past(flags: str, warning: str) -> None:
    """It costs a warning, and what stands behind it is read as ever."""
    config = resolve({}, ["org/m", *flags.split(), "--max-model-len", "64"], Host(device_count=1), demo.MODEL_DIR)
    assert config.warnings == [warning]
    assert config.vllm_arguments["max_model_len"] == 64


_TEXTS = {"rope_scaling": '{"factor": 2}', "long_lora_scaling_factors": "[1, 2]", "override_pooler_config": "{}"}


@pytest.mark.parametrize("flag", sorted(by_flag()))
def test_no_flag_of_the_past_is_refused(flag: str) -> None:
    flag_of = by_flag()[flag]
    given = [flag] if flag_of.kind in ("bool", "str_or_switch") else [flag, _TEXTS.get(flag_of.name, "1")]
    resolve({}, ["org/m", *given, "--reasoning-parser", "qwen3"], Host(device_count=1), demo.MODEL_DIR)


def test_flags_are_names_that_are_read() -> None:
    assert set(FLAGS) <= set(IGNORED) | set(REPLACED) | set(options())
    assert not set(by_flag()) & set(present_flags())


def test_tables() -> None:
    """A name of the past is none of today's, and what stands for it is."""
    assert not (set(IGNORED) | set(REPLACED)) & set(arguments())
    assert not set(IGNORED) & set(REPLACED)
    assert {replaced.argument for replaced in REPLACED.values()} <= set(arguments())
