# SPDX-License-Identifier: Apache-2.0
"""How the arguments of `lmi serve` are read: LMI's flags, a positional model, vLLM's flags in every spelling."""

import json
import shlex

import pytest

from serving.config.command_line import scan, wants_help

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("command", "attributes"),
    [
        ("org/m", {"model": "org/m"}),
        ("--demo", {"demo": True}),
        ("-m name=org/m", {"models": "name=org/m"}),
        ("--models=org/m", {"models": "org/m"}),
        ("-s /store", {"model_store": "/store"}),
        ("--model-store=/store", {"model_store": "/store"}),
        ("--config c.yaml org/m", {"config_file": "c.yaml", "model": "org/m"}),
        ("--port-file /tmp/p", {"port_file": "/tmp/p"}),
        ("--port_file=/tmp/p", {"port_file": "/tmp/p"}),
        ("-h", {"help": True}),
    ],
)
def test_our_own_arguments(command: str, attributes: dict[str, object]) -> None:
    line = scan(shlex.split(command))
    assert {name: getattr(line, name) for name in attributes} == attributes
    assert (line.settings, line.problems) == ([], [])


@pytest.mark.parametrize(
    ("command", "name", "text", "flag"),
    [
        ("--max-model-len 4096", "max_model_len", "4096", "--max-model-len"),
        ("--max_model_len=16k", "max_model_len", "16k", "--max_model_len"),
        ("--max-model-len -1", "max_model_len", "-1", "--max-model-len"),
        ("--max-model-l 1", "max_model_len", "1", "--max-model-l"),
        ("-tp 2", "tensor_parallel_size", "2", "-tp"),
        ("--gpu-memory 0.5", "gpu_memory_utilization", "0.5", "--gpu-memory"),
        ("--gpu_memory=0.5", "gpu_memory_utilization", "0.5", "--gpu_memory"),
        ("-tp=2", "tensor_parallel_size", "2", "-tp"),
        ("--enforce-eager", "enforce_eager", "true", "--enforce-eager"),
        ("--enforce-eager=false", "enforce_eager", "false", "--enforce-eager"),
        ("--no-enable-prefix-caching", "enable_prefix_caching", "false", "--no-enable-prefix-caching"),
        ("--no_enable_prefix_caching", "enable_prefix_caching", "false", "--no_enable_prefix_caching"),
        ("--disable-log-stats", "disable_log_stats", "true", "--disable-log-stats"),
        ("--hf-token", "hf_token", "true", "--hf-token"),
        ("--hf-token abc", "hf_token", "abc", "--hf-token"),
        ("""--hf-overrides '{"a": 1}'""", "hf_overrides", '{"a": 1}', "--hf-overrides"),
        ("--served-model-name a b,c --port 1", "served_model_name", '["a", "b,c"]', "--served-model-name"),
        ("-O3", "optimization_level", "3", "-O"),
        ("--swap-space 4", "swap_space", "4", "--swap-space"),
        ("--swap_space=4", "swap_space", "4", "--swap_space"),
        ("--disable-log-requests --port 1", "disable_log_requests", "true", "--disable-log-requests"),
        ("--no-enable-lora-bias", "enable_lora_bias", "false", "--no-enable-lora-bias"),
        ("--cuda-graph-sizes 1 8 --port 1", "cuda_graph_sizes", '["1", "8"]', "--cuda-graph-sizes"),
        ("--multi-step-stream-outputs --port 1", "multi_step_stream_outputs", "true", "--multi-step-stream-outputs"),
    ],
)
def test_flag_of_vllm(command: str, name: str, text: str, flag: str) -> None:
    line = scan(shlex.split(command))
    assert (line.settings[0].name, line.settings[0].text) == (name, text)
    assert line.settings[0].origin == f"command line {flag}"
    assert line.problems == []


def test_repeated_flag_that_appends_keeps_all_values() -> None:
    line = scan(shlex.split("--middleware a.b --middleware=c,d"))
    assert json.loads(line.settings[-1].text) == ["a.b", "c,d"]


@pytest.mark.parametrize(
    ("command", "value"),
    [
        ("--compilation-config.mode 3 --compilation_config.pass_config.enable_fusion=true",
         {"mode": 3, "pass_config": {"enable_fusion": True}}),
        ("-cc.mode=1", {"mode": 1}),
        ("-cc.max_size 16k", {"max_size": 16_000}),
        ("-cc.custom_ops+ a,b -cc.custom_ops+=c", {"custom_ops": ["a", "b", "c"]}),
        ("-cc.backend eager", {"backend": "eager"}),
    ],
)  # fmt: skip
def test_dotted_flags_make_one_object(command: str, value: dict[str, object]) -> None:
    (setting,) = scan(shlex.split(command)).settings
    assert (setting.name, json.loads(setting.text)) == ("compilation_config", value)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("a b", "unexpected argument 'b': the model is already 'a'; see lmi serve --help"),
        ("--max-model-len", "--max-model-len expects a value; see lmi serve --help"),
        ("--max-model-len --port 1", "--max-model-len expects a value; see lmi serve --help"),
        ("--max-modle-len 1", "unknown flag --max-modle-len; did you mean --max-model-len?; see lmi serve --help"),
        ("--dmeo", "unknown flag --dmeo; did you mean --demo?; see lmi serve --help"),
        ("--zzzzzz=1", "unknown flag --zzzzzz; see lmi serve --help"),
        ("--max-num 1", "unknown flag --max-num; did you mean --max-num-seqs?; see lmi serve --help"),
        ("--no-enforce-eager=1", "--no-enforce-eager takes no value; see lmi serve --help"),
        ("--swap-space", "--swap-space expects a value; see lmi serve --help"),
        ("--swap-spaces 4", "unknown flag --swap-spaces; did you mean --swap-space?; see lmi serve --help"),
        ("--headless", "headless is not supported (command line --headless); this server always listens"),
    ],
)
def test_what_cannot_be_read_is_a_usage_problem(command: str, problem: str) -> None:
    problems = scan(shlex.split(command)).problems
    assert [(each.kind, str(each)) for each in problems] == [("USAGE", problem)]


def test_every_problem_is_reported() -> None:
    assert len(scan(["--nope", "--neither", "--grpc"]).problems) == 3


@pytest.mark.parametrize(("argv", "wanted"), [(["--help"], True), (["org/m", "-h"], True), (["org/m"], False)])
def test_help(argv: list[str], wanted: bool) -> None:
    assert wants_help(argv) is wanted
