# SPDX-License-Identifier: Apache-2.0
"""Each source as settings with their origins, the syntax of `serving.properties`, and which setting wins."""

from pathlib import Path

import pytest

from serving.config.sources import Effective, Setting, Variables, from_environment, from_properties, from_yaml, merge
from serving.errors import ConfigError

pytestmark = pytest.mark.pure


def properties(tmp_path: Path, data: str | bytes) -> tuple[list[Setting], list[str]]:
    """The settings of a file with this content, and the warnings."""
    path = tmp_path / "serving.properties"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    warnings: list[str] = []
    return from_properties(path, warnings), warnings


def environment(env: dict[str, str]) -> tuple[Variables, list[str]]:
    """The settings in these variables, and the warnings."""
    warnings: list[str] = []
    return from_environment(env, warnings), warnings


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("option.x=v", "v"),
        ("option.x = v", "v"),
        ("option.x: v", "v"),
        ("option.x v", "v"),
        ("option.x\tv", "v"),
        ("  option.x=v", "v"),
        ("\foption.x=v", "v"),
        ("option.x: a:b=c", "a:b=c"),
        ("option.x=v # not a comment", "v # not a comment"),
        ("option.x=", ""),
        ("option.x", ""),
        ("option.x='v'", "'v'"),
        ("option.x=1\noption.x=2", "2"),
        ("option.x=1\roption.y=2", "1"),
        ("option.x=abc\\\n   # x", "abc# x"),
        ('option.x={"x": 1,\\\r\n   "b": 2}', '{"x": 1,"b": 2}'),
        (r"option.x={\"re\":\"a\\d+\"}", r'{"re":"a\d+"}'),
        (r"option.x=C:\temp", "C:\temp"),
        (r"option.x=\u00e9\q", "éq"),
        (r"option.\x=v", "v"),
    ],
)
def test_syntax(tmp_path: Path, line: str, value: str) -> None:
    settings, warnings = properties(tmp_path, line)
    assert (settings[0].name, settings[0].text) == ("x", value)
    assert warnings == []


@pytest.mark.parametrize("line", ["# option.x=1", "  ! option.x=1", "", "   "])
def test_comments_and_blank_lines(tmp_path: Path, line: str) -> None:
    assert properties(tmp_path, line) == ([], [])


@pytest.mark.parametrize(
    ("data", "name", "value", "warning"),
    [
        ("option.dtype=bf16 \t", "dtype", "bf16",
         "serving.properties: blanks at the end of a value are dropped: option.dtype"),
        ("option.tokenizer=café", "tokenizer", "café",
         "serving.properties: characters beyond ASCII are read as UTF-8: option.tokenizer"),
        (b"option.tokenizer=caf\xe9", "tokenizer", "café",
         "serving.properties: characters beyond ASCII are read as ISO-8859-1: option.tokenizer"),
        ("==w\noption.dtype=bf16", "dtype", "bf16",
         "serving.properties line 1 has no key before its separator and is ignored"),
        ("max_model_len=1", "max_model_len", "1",
         "max_model_len (serving.properties line 1) is read as option.max_model_len: the prefix is missing"),
        ("dtype=bf16", "dtype", "bf16",
         "dtype (serving.properties line 1) is read as option.dtype: the prefix is missing"),
        ("option.max-model-len=1", "max_model_len", "1",
         "option.max-model-len (serving.properties line 1) is read as max_model_len"),
        ("option.model=a", "model", "a", "option.model (serving.properties line 1) is read as option.model_id"),
        ("dtype=fp16\noption.dtype=bf16", "dtype", "bf16",
         "dtype (serving.properties line 1) has no effect beside option.dtype"),
    ],
)  # fmt: skip
def test_what_reads_otherwise_than_written_is_told(
    tmp_path: Path, data: str | bytes, name: str, value: str, warning: str
) -> None:
    settings, warnings = properties(tmp_path, data)
    assert [(setting.name, setting.text) for setting in settings] == [(name, value)]
    assert warnings == [warning]


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    assert properties(tmp_path, b"\xef\xbb\xbfoption.x=1")[0][0].name == "x"


def test_origin_counts_lines_of_every_kind(tmp_path: Path) -> None:
    settings, _ = properties(tmp_path, "# c\r\noption.a=1\roption.b=2\\\n  3\n\noption.c=4")
    assert [setting.origin for setting in settings] == [f"serving.properties line {number}" for number in (2, 3, 6)]


def test_malformed_escape_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        properties(tmp_path, "# c\noption.x=\\u12G4")
    (problem,) = raised.value.problems
    assert (problem.kind, problem.origin) == ("PROPS_SYNTAX", "serving.properties line 2")


def test_server_keys_have_no_prefix_or_one(tmp_path: Path) -> None:
    settings, warnings = properties(tmp_path, "max_request_size=1\noption.shutdown_delay=2")
    assert [(setting.name, setting.known) for setting in settings] == [
        ("max_request_size", True),
        ("shutdown_delay", True),
    ]
    assert warnings == []


def test_unknown_names_are_kept_as_written(tmp_path: Path) -> None:
    settings, _ = properties(tmp_path, "option.my-key=1\nother=2")
    assert [(setting.name, setting.known) for setting in settings] == [("my-key", False), ("other", False)]


def test_two_spellings_may_agree(tmp_path: Path) -> None:
    settings, _ = properties(tmp_path, "option.max_num_seqs=8\noption.max_rolling_batch_size=8")
    assert {setting.name for setting in settings} == {"max_num_seqs"}


@pytest.mark.parametrize(
    ("variable", "name", "known"),
    [
        ("OPTION_MAX_MODEL_LEN", "max_model_len", True),
        ("OPTION_max_model_len", "max_model_len", True),
        ("OPTION_MAX_ROLLING_BATCH_SIZE", "max_num_seqs", True),
        ("OPTION_LOAD_IN_8BIT", "load_in_8bit", True),
        ("OPTION_Max_Model_Len", "Max_Model_Len", False),
        ("OPTION_GPU.MAXWORKERS", "GPU.MAXWORKERS", False),
        ("SERVING_MAX_REQUEST_SIZE", "max_request_size", True),
        ("OPTION_SHUTDOWN_DELAY", "shutdown_delay", True),
    ],
)
def test_name_of_a_variable(variable: str, name: str, known: bool) -> None:
    variables, warnings = environment({variable: " verbatim "})
    assert [(setting.name, setting.text, setting.origin, setting.known) for setting in variables.regular] == [
        (name, " verbatim ", variable, known)
    ]
    assert warnings == []


def test_layers_of_the_environment() -> None:
    env = {
        "HF_MODEL_ID": "a",
        "OPTION_MODEL_ID": "b",
        "TENSOR_PARALLEL_DEGREE": "2",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "9",
        "option.dtype": "fp16",
        "HOME": "/",
    }
    variables, _ = environment(env)
    assert {
        name: [(setting.name, setting.text) for setting in getattr(variables, name)]
        for name in ("sagemaker", "hub", "regular", "older")
    } == {
        "sagemaker": [("predict_timeout", "9")],
        "hub": [("model", "a")],
        "regular": [("model", "b")],
        "older": [("tensor_parallel_size", "2")],
    }


@pytest.mark.parametrize(
    "variable", ["HF_MODEL_ID", "OPTION_DTYPE", "SERVING_MAX_REQUEST_SIZE", "TENSOR_PARALLEL_DEGREE"]
)
def test_empty_variable_is_unset(variable: str) -> None:
    assert environment({variable: ""}) == (Variables([], [], [], []), [])


def test_upper_case_variable_wins_over_its_twin() -> None:
    variables, warnings = environment({"OPTION_max_model_len": "1", "OPTION_MAX_MODEL_LEN": "2"})
    assert [setting.text for setting in variables.regular] == ["2"]
    assert warnings == ["OPTION_max_model_len has no effect beside OPTION_MAX_MODEL_LEN"]


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("HF_MODEL_QUANTIZE", "awq", "quantization", "awq"),
        ("HF_MODEL_TRUST_REMOTE_CODE", "true", "trust_remote_code", "true"),
        ("MAX_CONCURRENT_REQUESTS", "7", "job_queue_size", "7"),
        ("MAX_BATCH_PREFILL_TOKENS", "4096", "max_num_batched_tokens", "4096"),
        ("MAX_BATCH_SIZE", "16", "max_num_seqs", "16"),
        ("CUDA_MEMORY_FRACTION", "0.8", "gpu_memory_utilization", "0.8"),
        ("ENABLE_CUDA_GRAPHS", "True", "enforce_eager", "false"),
        ("ENABLE_CUDA_GRAPHS", "0", "enforce_eager", "true"),
    ],
)
def test_variable_of_tgi(variable: str, text: str, name: str, value: str) -> None:
    variables, warnings = environment({variable: text})
    assert [(one.name, one.text, one.origin) for one in variables.regular] == [(name, value, variable)]
    assert warnings == []


def test_variable_of_tgi_that_counts_gpus() -> None:
    variables, _ = environment({"SM_NUM_GPUS": "4"})
    assert [(one.name, one.text, one.origin) for one in variables.older] == [
        ("tensor_parallel_size", "4", "SM_NUM_GPUS")
    ]


def test_variable_of_lmi_beats_that_of_tgi() -> None:
    variables, _ = environment({"MAX_BATCH_SIZE": "16", "OPTION_MAX_ROLLING_BATCH_SIZE": "48"})
    assert [(one.text, one.origin) for one in variables.regular] == [("48", "OPTION_MAX_ROLLING_BATCH_SIZE")]


@pytest.mark.parametrize(
    ("variable", "warning"),
    [
        ("NUM_SHARD", "NUM_SHARD has no effect; set TENSOR_PARALLEL_DEGREE"),
        ("MAX_TOTAL_TOKENS", "MAX_TOTAL_TOKENS has no effect; set OPTION_MAX_MODEL_LEN"),
        ("HF_TRUST_REMOTE_CODE", "HF_TRUST_REMOTE_CODE is read as OPTION_TRUST_REMOTE_CODE"),
    ],
)
def test_variable_of_tgi_that_lmi_does_not_read(variable: str, warning: str) -> None:
    assert environment({variable: "1"})[1] == [warning]


def test_switch_of_tgi_that_is_no_boolean() -> None:
    with pytest.raises(ConfigError, match=r"ENABLE_CUDA_GRAPHS='maybe': expected true or false"):
        environment({"ENABLE_CUDA_GRAPHS": "maybe"})


def test_two_variables_for_one_option_must_agree() -> None:
    with pytest.raises(ConfigError) as raised:
        environment({"OPTION_MAX_NUM_SEQS": "1", "OPTION_MAX_ROLLING_BATCH_SIZE": "2"})
    assert [str(problem) for problem in raised.value.problems] == [
        "max_num_seqs=1 and max_rolling_batch_size=2 set the same option "
        "(OPTION_MAX_NUM_SEQS and OPTION_MAX_ROLLING_BATCH_SIZE); keep one of the two"
    ]


def test_config_file_of_vllm(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "model: org/m\ntensor-parallel-size: 2\nenforce_eager: on\nserved-model-name: [a, b]\n"
        "compilation-config: {mode: 3}\nrevision: 2024-01-01\ndtype: ~\nmax_model_len: '16k'\nnope: 1\n"
    )
    settings = from_yaml(path, [])
    assert [(setting.name, setting.text) for setting in settings] == [
        ("model", "org/m"),
        ("tensor_parallel_size", "2"),
        ("enforce_eager", "true"),
        ("served_model_name", '["a", "b"]'),
        ("compilation_config", '{"mode": 3}'),
        ("revision", "2024-01-01"),
        ("dtype", "null"),
        ("max_model_len", "16k"),
        ("nope", "1"),
    ]
    assert settings[1].origin == "c.yaml tensor-parallel-size"
    assert [setting.name for setting in settings if not setting.known] == ["nope"]


def test_block_of_a_program_that_starts_vllm(tmp_path: Path) -> None:
    path, warnings = tmp_path / "c.yaml", list[str]()
    path.write_text(
        "seed: 7\nbackend:\n  type: vllm\n  model: org/m\n  host: localhost\n  port: 8000\n  api_base: http://localhost\n"
        "  temperature: 0.7\n  max_tokens: 512\n  dtype: auto\n  function_calling: {enabled: false}\n"
    )
    assert [(setting.name, setting.text) for setting in from_yaml(path, warnings)] == [
        ("seed", "7"), ("model", "org/m"), ("host", "localhost"), ("port", "8000"), ("dtype", "auto"),
        ("tool_fallback", "false"), ("override_generation_config", '{"temperature": 0.7, "max_new_tokens": 512}'),
    ]  # fmt: skip
    assert [warning.split()[0] for warning in warnings] == ["backend.type", "backend.api_base"]


def test_block_beside_the_same_outside(tmp_path: Path) -> None:
    """What stands outside wins, and what both add to is joined."""
    path, warnings = tmp_path / "c.yaml", list[str]()
    path.write_text(
        "override-generation-config: {top_k: 3, temperature: 1.0}\nmodel: org/m\n"
        "backend: {model: org/other, temperature: 0.5, top_p: 0.9}\n"
    )
    assert {setting.name: setting.text for setting in from_yaml(path, warnings)} == {
        "model": "org/m",
        "override_generation_config": '{"temperature": 1.0, "top_p": 0.9, "top_k": 3}',
    }
    assert warnings == ["backend.model (c.yaml) has no effect beside model"]


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"a: &x [*x]", "VALIDATION", "--config {path}: Circular reference"),
        (None, "NOT_FOUND", "cannot read --config {path}: No such file or directory"),
        (b"a: [", "VALIDATION", "--config {path} is not YAML: while parsing a flow node expected the node content"),
        (b"\xff\xfe\xff", "VALIDATION", "--config {path} is not YAML: "),
        (b"- a", "VALIDATION", "--config {path} must hold `name: value` lines"),
        (b"", "VALIDATION", "--config {path} must hold `name: value` lines"),
    ],
)
def test_config_file_that_cannot_be_read(tmp_path: Path, data: bytes | None, kind: str, text: str) -> None:
    path = tmp_path / "c.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        from_yaml(path, [])
    (problem,) = raised.value.problems
    assert problem.kind == kind
    assert problem.text.startswith(text.format(path=path))


def test_first_layer_wins_and_keeps_what_it_overrode() -> None:
    strong, weak = Setting("dtype", "fp16", "flag"), Setting("dtype", "bf16", "file")
    same = Setting("dtype", "fp16", "variable")
    assert merge([[strong], [weak], [same]]) == {"dtype": Effective(strong, (weak, same))}


def test_last_setting_of_a_layer_counts() -> None:
    first, last = Setting("dtype", "fp16", "flag"), Setting("dtype", "bf16", "flag")
    assert merge([[first, last]]) == {"dtype": Effective(last)}


def test_secrets_in_a_disagreement_do_not_show(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        properties(tmp_path, "option.api_key=S1\noption.api-key=S2")
    assert str(raised.value).startswith("api_key=*** and api_key=*** set the same option")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        from_properties(tmp_path, [])
