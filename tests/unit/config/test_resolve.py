# SPDX-License-Identifier: Apache-2.0
"""The resolved configuration: precedence, typed options, defaults of the machine, devices, warnings and refusals."""

from pathlib import Path

import pytest

from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from serving.config.sources import Setting
from serving.errors import ConfigError

pytestmark = pytest.mark.pure
GIB = 1024**3
GPU = Host(device_count=1)


def resolved(*argv: str, host: Host = GPU, **env: str) -> ResolvedConfig:
    """The configuration of `lmi serve org/m` with these flags and variables."""
    return resolve(env, ["org/m", *argv], host, Path("/demo"))


def problems(*argv: str, host: Host = GPU, **env: str) -> list[tuple[str, str]]:
    """Kind and text of every reason not to start."""
    with pytest.raises(ConfigError) as raised:
        resolved(*argv, host=host, **env)
    return [(problem.kind, str(problem)) for problem in raised.value.problems]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A model directory; its serving.properties is the test's to write."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").touch()
    return tmp_path / "m"


def test_order_of_the_sources(store: Path) -> None:
    """Each source beats those behind it; taking the winner away lets the next one win."""
    (store / "serving.properties").write_text("option.max_model_len=3")
    (store.parent / "c.yaml").write_text("max-model-len: 2")
    flags, config_file = ["--max-model-len", "1"], ["--config", str(store.parent / "c.yaml")]
    env = {"OPTION_MAX_MODEL_LEN": "4"}
    winners = []
    for argv in ([*flags, *config_file], config_file, []):
        config = resolve(env, [str(store), *argv], GPU, store)
        winners.append(config.vllm_arguments["max_model_len"])
    (store / "serving.properties").write_text("")
    winners.append(resolve(env, [str(store)], GPU, store).vllm_arguments["max_model_len"])
    assert winners == [1, 2, 3, 4]


def test_older_variable_is_the_weakest() -> None:
    env = {"OPTION_TENSOR_PARALLEL_SIZE": "1", "TENSOR_PARALLEL_DEGREE": "4"}
    config = resolved(host=Host(device_count=1), **env)
    assert (config.vllm_arguments["tensor_parallel_size"], config.warnings) == (1, [])


def test_winner_keeps_its_origin_and_what_it_overrode() -> None:
    effective = resolved("--dtype", "bf16", OPTION_DTYPE="fp16").effective["dtype"]
    assert effective.setting == Setting("dtype", "bf16", "command line --dtype")
    assert effective.overrode == (Setting("dtype", "fp16", "OPTION_DTYPE", spelling="dtype"),)


@pytest.mark.parametrize(
    ("variable", "text", "option", "argument", "value"),
    [
        ("OPTION_REVISION", "r1", "revision", "revision", "r1"),
        ("OPTION_TRUST_REMOTE_CODE", "Yes", "trust_remote_code", "trust_remote_code", True),
        ("OPTION_DTYPE", "HALF", "dtype", "dtype", "float16"),
        ("OPTION_DTYPE", "None", "dtype", "dtype", "auto"),
        ("OPTION_TENSOR_PARALLEL_DEGREE", " 1 ", "tensor_parallel_degree", "tensor_parallel_size", 1),
        ("OPTION_MAX_ROLLING_BATCH_SIZE", "64.0", "max_rolling_batch_size", "max_num_seqs", 64),
        ("OPTION_MAX_NUM_SEQS", "64", "max_rolling_batch_size", "max_num_seqs", 64),
        ("OPTION_MAX_NUM_SEQS", "null", "max_rolling_batch_size", "max_num_seqs", 256),
        ("OPTION_ENABLE_LORA", "on", "enable_lora", "enable_lora", True),
        ("OPTION_MAX_LORAS", "2", "max_loras", "max_loras", 2),
    ],
)
def test_option_of_lmi_is_typed_and_reaches_vllm(
    variable: str, text: str, option: str, argument: str, value: object
) -> None:
    config = resolved(**{variable: text})
    assert getattr(config.options, option) == config.vllm_arguments[argument] == value
    assert type(config.vllm_arguments[argument]) is type(value)


@pytest.mark.parametrize("text", ["max", "Max", " MAX"])
def test_max_takes_every_gpu(text: str) -> None:
    config = resolved(host=Host(device_count=8), OPTION_TENSOR_PARALLEL_DEGREE=text)
    assert config.vllm_arguments["tensor_parallel_size"] == 8
    assert config.warnings == []


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({"OPTION_TENSOR_PARALLEL_DEGREE": "0"},
         ("VALIDATION", "tensor_parallel_degree='0': expected max or a whole number from 1 "
          "(OPTION_TENSOR_PARALLEL_DEGREE)")),
        ({"TENSOR_PARALLEL_DEGREE": "many"},
         ("BAD_INT", "tensor_parallel_degree='many': expected max or a whole number from 1 (TENSOR_PARALLEL_DEGREE)")),
        ({"OPTION_MAX_ROLLING_BATCH_SIZE": "64.5"},
         ("BAD_INT", "max_rolling_batch_size='64.5': expected a whole number "
          "(OPTION_MAX_ROLLING_BATCH_SIZE)")),
        ({"SERVING_MAX_REQUEST_SIZE": "1MB"},
         ("BAD_INT", "max_request_size='1MB': expected a whole number (SERVING_MAX_REQUEST_SIZE)")),
        ({"SERVING_SHUTDOWN_DELAY": "-1"},
         ("VALIDATION", "shutdown_delay='-1': Input should be greater than or equal to 0 (SERVING_SHUTDOWN_DELAY)")),
        ({"OPTION_ENABLE_LORA": "maybe"},
         ("VALIDATION", "enable_lora='maybe': expected true or false (OPTION_ENABLE_LORA)")),
        ({"OPTION_DTYPE": "int8"},
         ("VALIDATION", "dtype='int8': expected one of auto, float32, float, fp32, float16, half, fp16, bfloat16, "
          "bf16 (OPTION_DTYPE)")),
        ({"OPTION_BLOCK_SIZE": "x"},
         ("ARGPARSE", "block_size='x': expected a whole number (OPTION_BLOCK_SIZE)")),
        ({"OPTION_HEADLESS": "true"},
         ("UNSUPPORTED", "headless is not supported (OPTION_HEADLESS); this server always listens")),
        ({"OPTION_CONFIG": "c.yaml"},
         ("UNSUPPORTED", "config is not supported (OPTION_CONFIG); it is a flag: lmi serve --config FILE")),
    ],
)  # fmt: skip
def test_value_that_is_refused(env: dict[str, str], problem: tuple[str, str]) -> None:
    assert problems(**env) == [problem]


def test_all_problems_are_told_at_once() -> None:
    found = problems("--max-model-len", "x", OPTION_DTYPE="int8", SERVING_SHUTDOWN_DELAY="-1", OPTION_GRPC="true")
    assert sorted(kind for kind, _ in found) == ["ARGPARSE", "UNSUPPORTED", "VALIDATION", "VALIDATION"]


@pytest.mark.parametrize(("argv", "code"), [(["--nope"], 2), (["--dtype", "int8"], 1)])
def test_exit_code(argv: list[str], code: int) -> None:
    with pytest.raises(ConfigError) as raised:
        resolved(*argv)
    assert raised.value.exit_code == code


@pytest.mark.parametrize(
    ("env", "warning"),
    [
        ({"OPTION_MAX_MODLE_LEN": "1"},
         "unknown option max_modle_len (OPTION_MAX_MODLE_LEN); did you mean max_model_len?"),
        ({"OPTION_Tensor_Parallel_Degree": "1"},
         "unknown option Tensor_Parallel_Degree (OPTION_Tensor_Parallel_Degree); "
         "did you mean tensor_parallel_degree?"),
        ({"OPTION_ZZZZ": "1"}, "unknown option zzzz (OPTION_ZZZZ)"),
        ({"OPTION_HF_OVERRIDES": "{'a': 1}"},
         'hf_overrides (OPTION_HF_OVERRIDES) is not JSON; it is read as {"a": 1}'),
        ({"OPTION_LIMIT_MM_PER_PROMPT": "image=4"},
         'limit_mm_per_prompt (OPTION_LIMIT_MM_PER_PROMPT) is not JSON; it is read as {"image": 4}'),
    ],
)  # fmt: skip
def test_warning(env: dict[str, str], warning: str) -> None:
    assert resolved(**env).warnings == [warning]


def test_file_wins_over_another_name_in_the_environment(store: Path) -> None:
    (store / "serving.properties").write_text("option.max_rolling_batch_size=8")
    config = resolve({"OPTION_MAX_NUM_SEQS": "16"}, [str(store)], GPU, store)
    assert config.vllm_arguments["max_num_seqs"] == 8
    assert config.warnings == [
        "max_num_seqs is both '8' (serving.properties line 1) and '16' (OPTION_MAX_NUM_SEQS); the first counts"
    ]


@pytest.mark.parametrize("env", [{"OPTION_MAX_NUM_SEQS": "8"}, {"OPTION_MAX_ROLLING_BATCH_SIZE": "16"}])
def test_no_warning_for_an_equal_value_or_the_same_name(store: Path, env: dict[str, str]) -> None:
    (store / "serving.properties").write_text("option.max_rolling_batch_size=8")
    config = resolve(env, [str(store)], GPU, store)
    assert (config.vllm_arguments["max_num_seqs"], config.warnings) == (8, [])


def test_port_file(tmp_path: Path) -> None:
    assert resolved("--port-file", str(tmp_path / "port")).port_file == tmp_path / "port"
    assert resolved().port_file is None
    config = resolved("--port-file", str(tmp_path / "port"), "--uds", "/tmp/s")
    assert (config.port_file, config.warnings) == (
        None, ["--port-file has no effect: the server listens on a Unix socket"],
    )  # fmt: skip
    for path, reason in ((tmp_path, "it is a directory"), (tmp_path / "a/b", f"there is no directory {tmp_path}/a")):
        text = f"--port-file '{path}': {reason}; name a file in a directory that exists"
        assert problems("--port-file", str(path)) == [("NOT_FOUND", text)]


def test_settings_of_the_server() -> None:
    assert resolved().server.model_dump(exclude_none=True) == {
        "load_on_devices": "*",
        "request_id_header_key": "x-request-id",
        "fail_fast": False,
        "prometheus": False,
        "stall_timeout": 60,
        "throttle_error_http_code": 503,
        "wlm_error_http_code": 503,
        "timeout_http_code": 504,
        "bad_request_http_code": 400,
        "server_error_http_code": 500,
        "engine": "Python",
        "max_request_size": 64 * 1024 * 1024,
        "job_queue_size": 1000,
        "retry_threshold": 0,
        "batch_size": 1,
        "max_batch_delay": 100,
        "chunked_read_timeout": 120,
        "memory_cache_capacity": 1000,
        "memory_cache_ttl": 3600,
        "memory_cache_max_bytes": 256 * 1024 * 1024,
        "shutdown_delay": 0,
    }
    server = resolved(SERVING_MAX_REQUEST_SIZE="1024", OPTION_SHUTDOWN_DELAY="5").server
    assert (server.max_request_size, server.shutdown_delay) == (1024, 5)
    assert resolved(SERVING_MEMORY_CACHE_CAPACITY="7").server.memory_cache_capacity == 7


def test_strict_refuses_every_unknown_option() -> None:
    assert problems(OPTION_STRICT="true", OPTION_MAX_MODLE_LEN="1", OPTION_ZZZZ="1") == [
        ("VALIDATION", "unknown option max_modle_len (OPTION_MAX_MODLE_LEN); did you mean max_model_len?"),
        ("VALIDATION", "unknown option zzzz (OPTION_ZZZZ)"),
    ]


@pytest.mark.parametrize(
    ("env", "seconds", "warnings"),
    [
        ({}, 240, []),
        ({"OPTION_PREDICT_TIMEOUT": "0"}, 240, []),
        ({"OPTION_PREDICT_TIMEOUT": "7", "PREDICT_TIMEOUT": "8"}, 7, []),
        ({"PREDICT_TIMEOUT": "8"}, 8, []),
        ({"OPTION_PREDICT_TIMEOUT": "abc"}, 240,
         ["predict_timeout='abc': expected a whole number (OPTION_PREDICT_TIMEOUT); the default is used"]),
        ({"OPTION_PREDICT_TIMEOUT": "-1"}, 240,
         ["predict_timeout='-1': Input should be greater than or equal to 1 (OPTION_PREDICT_TIMEOUT); "
          "the default is used"]),
    ],
)  # fmt: skip
def test_time_for_an_answer(env: dict[str, str], seconds: int, warnings: list[str]) -> None:
    config = resolved(**env)
    assert (config.limits.first_output_s, config.warnings) == (seconds, warnings)


def test_sagemaker_beats_the_file(store: Path) -> None:
    (store / "serving.properties").write_text("option.predict_timeout=60\noption.model_loading_timeout=61")
    env = {"SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "90", "SAGEMAKER_STARTUP_TIMEOUT": "91"}
    limits = resolve(env, [str(store)], GPU, store).limits
    assert (limits.first_output_s, limits.start_s) == (90, 91)


@pytest.mark.parametrize(("env", "first", "gap"), [({}, 240, 120), ({"SERVING_CHUNKED_READ_TIMEOUT": "9"}, 9, 9),
                                                   ({"SERVING_CHUNKED_READ_TIMEOUT": "999"}, 240, 999)])  # fmt: skip
def test_time_between_two_outputs(env: dict[str, str], first: int, gap: int) -> None:
    """A `chunked_read_timeout` that was set bounds the first output, too."""
    limits = resolved(**env).limits
    assert (limits.first_output_s, limits.gap_s) == (first, gap)


def test_requests_at_once() -> None:
    env = {"SERVING_JOB_QUEUE_SIZE": "10", "OPTION_MAX_ROLLING_BATCH_SIZE": "8", "OPTION_DATA_PARALLEL_SIZE": "2"}
    assert resolved(host=Host(device_count=2), **env).limits.num_in_flight == 10 + 8 * 2


def test_pipeline_on_a_cpu() -> None:
    assert problems(host=Host(), OPTION_PIPELINE_PARALLEL_DEGREE="2") == [
        ("UNSUPPORTED", "pipeline_parallel_degree=2 needs GPUs; leave it out: with it, vLLM's CPU engine dies at the "
         "first request")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("env", "warning"),
    [
        ({"OPTION_LONG_LORA_SCALING_FACTORS": "4.0"},
         "long_lora_scaling_factors (OPTION_LONG_LORA_SCALING_FACTORS) has no effect: vLLM reads the scaling from "
         "each adapter's configuration"),
        ({"OPTION_LORA_EXTRA_VOCAB_SIZE": "256"},
         "lora_extra_vocab_size (OPTION_LORA_EXTRA_VOCAB_SIZE) has no effect: vLLM serves no adapters with a "
         "vocabulary of their own any more"),
        ({"OPTION_ADAPTERS": "loras"}, "adapters=loras has no effect: they stand in adapters/ beside the model"),
        ({"OPTION_ADAPTERS": "adapters"}, None),
    ],
)  # fmt: skip
def test_lora_options_of_older_versions(env: dict[str, str], warning: str | None) -> None:
    assert resolved(**env).warnings == ([] if warning is None else [warning])


def test_defaults_of_ours_give_way() -> None:
    config = resolved("--host", "::", "--served-model-name", "a", "b", "--shutdown-timeout", "3", OPTION_PORT="9")
    shown = {name: config.vllm_arguments[name] for name in ("host", "port", "served_model_name", "shutdown_timeout")}
    assert shown == {"host": "::", "port": 9, "served_model_name": ["a", "b"], "shutdown_timeout": 3}
    assert config.served_model_names == ["a", "b"]


@pytest.mark.parametrize(
    ("memory_bytes", "argv", "env", "cache_bytes"),
    [
        (8 * GIB, [], {}, 2 * GIB),
        (64 * GIB, [], {}, 4 * GIB),
        (64 * GIB, ["--kv-cache-memory-bytes", "1G"], {}, GIB),
        (64 * GIB, ["--gpu-memory-utilization", "0.5"], {}, None),
        (64 * GIB, [], {"VLLM_CPU_KVCACHE_SPACE": "1"}, None),
    ],
)
def test_cache_on_a_cpu(memory_bytes: int, argv: list[str], env: dict[str, str], cache_bytes: int | None) -> None:
    config = resolved(*argv, host=Host(memory_bytes=memory_bytes), **env)
    assert config.vllm_arguments.get("kv_cache_memory_bytes") == cache_bytes


@pytest.mark.parametrize(
    ("host", "argv", "enforce_eager", "disabled"),
    [
        (Host(can_compile=False), [], True, "1"),
        (Host(can_compile=False), ["--no-enforce-eager"], False, "1"),
        (Host(), [], None, None),
        (Host(device_count=1, can_compile=False), [], None, None),
    ],
)
def test_cpu_without_a_compiler(host: Host, argv: list[str], enforce_eager: bool | None, disabled: str | None) -> None:
    config = resolved(*argv, host=host)
    assert config.vllm_arguments.get("enforce_eager") == enforce_eager
    assert config.environment.get("TORCHDYNAMO_DISABLE") == disabled


def test_environment_of_the_engine_leaves_what_was_set() -> None:
    assert resolved().environment == {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_MAX_STOP_STRINGS": "1024",
    }
    assert "VLLM_NO_USAGE_STATS" not in resolved(VLLM_NO_USAGE_STATS="0").environment


@pytest.mark.parametrize(
    ("num_gpus", "argv", "degree", "warning"),
    [
        (8, ["-pp", "2"], 4, None),
        (8, ["-dp", "2"], 4, None),
        (8, ["-dp", "2", "-pp", "2"], 2, None),
        (8, ["-tp", "2", "-dp", "4"], 2, None),
        (4, ["-tp", "2"], 2, "idle: GPU 2, 3 of 4; option.data_parallel_size=2 would use more"),
        (8, ["-tp", "2", "-dp", "2"], 2, "idle: GPU 4, 5, 6, 7 of 8; option.data_parallel_size=4 would use more"),
        (4, ["-tp", "3"], 3, "idle: GPU 3 of 4; option.tensor_parallel_degree=max would use more"),
        (1, ["-tp", "8", "--nnodes", "8"], 8, None),
        (1, ["-tp", "8", "--distributed-executor-backend", "ray"], 8, None),
        (0, ["-tp", "2"], 2, None),
    ],
)
def test_devices(num_gpus: int, argv: list[str], degree: int, warning: str | None) -> None:
    config = resolved(*argv, host=Host(device_count=num_gpus))
    assert config.vllm_arguments["tensor_parallel_size"] == degree
    assert config.warnings == ([] if warning is None else [warning])


@pytest.mark.parametrize(("argv", "product"), [(["-tp", "4", "-dp", "2"], (4, 1, 2)), (["-pp", "5"], (1, 5, 1))])
def test_more_devices_than_there_are(argv: list[str], product: tuple[int, int, int]) -> None:
    tensor, stages, copies = product
    text = (
        f"tensor_parallel_degree={tensor} x pipeline_parallel_degree={stages} x data_parallel_size={copies} needs "
        f"{tensor * stages * copies} GPUs, 4 are visible; lower one of them"
    )
    assert problems(*argv, host=Host(device_count=4)) == [("CAPACITY", text)]


@pytest.mark.parametrize(("enable_lora", "names"), [("true", ["a", "b"]), ("false", [])])
def test_adapters_beside_the_model(store: Path, enable_lora: str, names: list[str]) -> None:
    for name in ("b", "a"):
        (store / "adapters" / name).mkdir(parents=True)
        (store / "adapters" / name / "adapter_config.json").touch()
    (store / "adapters/notes").mkdir()
    (store / "adapters/README.md").touch()
    config = resolve({"OPTION_ENABLE_LORA": enable_lora}, [str(store)], GPU, store)
    assert config.adapters == {name: store / "adapters" / name for name in names}
    assert list(config.adapters) == names


def test_hub_id_has_no_adapters_beside_it() -> None:
    assert resolved(OPTION_ENABLE_LORA="true").adapters == {}


def test_resolving_reads_no_variables_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTION_DTYPE", "fp16")
    monkeypatch.setenv("HF_MODEL_ID", "org/other")
    assert resolved().vllm_arguments["dtype"] == "auto"


def test_keys_of_every_source_count(tmp_path: Path) -> None:
    config = resolve({"VLLM_API_KEY": "b"}, ["org/m", "--api-key", "a"], Host(root=tmp_path), tmp_path)
    assert config.vllm_arguments["api_key"] == ["a", "b"]


@pytest.mark.parametrize(
    "env",
    [{"OPTION_API_KEY": "[S3CRET"}, {"OPTION_KV_TRANSFER_CONFIG": "{api_key: S3CRET"}, {"OPTION_API_KEY": "true"}],
)
def test_secrets_in_a_refusal_do_not_show(env: dict[str, str]) -> None:
    try:
        text = str(resolved(**env).warnings)
    except ConfigError as error:
        text = str(error)
    assert "S3CRET" not in text


def test_pooler_that_does_not_normalize() -> None:
    env = {"OPTION_TASK": "text-embedding", "OPTION_NORMALIZE": "false"}
    given = resolved(**env, OPTION_POOLER_CONFIG='{"pooling_type": "CLS"}').vllm_arguments["pooler_config"]
    assert given == {"pooling_type": "CLS", "use_activation": False}
    assert resolved(**env, OPTION_POOLER_CONFIG="5").vllm_arguments["pooler_config"] == 5
    assert "pooler_config" not in resolved(OPTION_NORMALIZE="false").vllm_arguments


def test_nested_flags_that_contradict() -> None:
    ((kind, text),) = problems("--hf-overrides.a", "1", "--hf-overrides.a.b", "2")
    assert (kind, text) == (
        "USAGE",
        "--hf-overrides.a.b: a has a value already, which is no object; see lmi serve --help",
    )


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exists below the working directory stays what it is when the server enters the model directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("chat.jinja", "adapter", "parser.py"):
        (tmp_path / name).touch()
    flags = ["--chat-template", "chat.jinja", "--uds", "s.sock", "--lora-modules", "a=adapter", "--enable-lora"]
    values = resolved(*flags, "--generation-config", "vllm", "--tokenizer", "org/other").vllm_arguments
    assert {
        name: values[name] for name in ("chat_template", "uds", "lora_modules", "generation_config", "tokenizer")
    } == {
        "chat_template": f"{tmp_path}/chat.jinja",
        "uds": f"{tmp_path}/s.sock",
        "lora_modules": [f"a={tmp_path}/adapter"],
        "generation_config": "vllm",
        "tokenizer": "org/other",
    }


def test_worker_environment() -> None:
    """On a CPU a handler's own engine must fit beside the server's."""
    on_cpu = resolved(host=Host(memory_bytes=16 * GIB), OPTION_ENV="A=1, B=x=y")
    assert on_cpu.worker_environment == {"VLLM_CPU_KVCACHE_SPACE": "4", "A": "1", "B": "x=y"}
    assert resolved(host=Host(), VLLM_CPU_KVCACHE_SPACE="9").worker_environment == {}
    assert resolved().worker_environment == {}
    assert problems(OPTION_ENV="A") == [("VALIDATION", "env='A': expected NAME=VALUE,NAME=VALUE (OPTION_ENV)")]


def test_something_to_load(store: Path) -> None:
    assert resolve({}, [str(store)], GPU, Path("/demo")).has_model
    (store / "config.json").rename(store / "model.py")
    assert not resolve({}, [str(store)], GPU, Path("/demo")).has_model
    assert resolve({"HF_MODEL_ID": "org/m"}, [], GPU, Path("/demo")).has_model
