# SPDX-License-Identifier: Apache-2.0
"""`vllm serve` commands of configurations, and back; and what LMI would do otherwise."""

import json
from pathlib import Path

import pytest

from serving import demo
from serving.config import report
from serving.config.explain import differences
from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from serving.config.vllm_command import as_vllm, from_vllm
from serving.errors import ConfigError
from tests.conformance.cases import Case, cases
from tests.conformance.test_configuration import fetched, prepared

pytestmark = pytest.mark.pure
GIB = 1024**3


@pytest.mark.parametrize(
    "case", [case for case in cases("configuration", "fake") if "error" not in case.expect], ids=str
)
def test_there_and_back(case: Case, tmp_path: Path) -> None:
    """The engine gets the same from the file that is made of the command."""
    host = Host(device_count=case.given.get("gpus", 1), memory_bytes=8 * GIB, root=tmp_path, fetch=fetched)
    env, argv = prepared(case.given, host)
    config = resolve(env, argv, host, demo.MODEL_DIR)
    again = tmp_path / "again"
    again.mkdir()
    properties = from_vllm(as_vllm(config, shows_secrets=True))
    (again / "serving.properties").write_text(properties)
    hidden = config.environment.get("CUDA_VISIBLE_DEVICES")
    left = Host(
        device_count=len(hidden.split(",")) if hidden else host.device_count,
        memory_bytes=8 * GIB,
        root=tmp_path,
    )
    back = resolve({}, ["-s", "/again"], left, demo.MODEL_DIR)
    assert as_vllm(back, shows_secrets=True) == as_vllm(config, shows_secrets=True)


def config_of(*argv: str, files: dict[str, str] | None = None, root: Path = Path("/"), **env: str) -> ResolvedConfig:
    for name, text in (files or {}).items():
        (root / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / name.lstrip("/")).write_text(text)
    return resolve(env, [*argv], Host(device_count=1, root=root), demo.MODEL_DIR)


def test_command() -> None:
    config = config_of("org/m", OPTION_ENFORCE_EAGER="true", OPTION_LIMIT_MM_PER_PROMPT='{"image": 2}')
    command = as_vllm(config)
    assert command.startswith("VLLM_NO_USAGE_STATS=1 VLLM_WORKER_MULTIPROC_METHOD=spawn ")
    assert " vllm serve org/m " in command
    assert " --enforce-eager" in command
    assert """ '--limit-mm-per-prompt={"image": 2}'""" in command


def test_secrets() -> None:
    config = config_of("org/m", OPTION_API_KEY="key-1", OPTION_HF_TOKEN="hf_1", OPTION_ENV="MY_SECRET=s-1,A=2")
    shown = json.dumps(report.as_data(config)) + report.as_text(config) + as_vllm(config)
    assert not {secret for secret in ("key-1", "hf_1", "s-1") if secret in shown}
    assert "MY_SECRET=***,A=2" in shown
    assert "key-1" not in as_vllm(config)
    assert "hf_1" not in as_vllm(config)
    assert {"key-1", "hf_1"} <= set(as_vllm(config, shows_secrets=True).replace("=", " ").split())


def test_properties() -> None:
    """LMI's names where it has some; what a user would write by hand."""
    command = "CUDA_VISIBLE_DEVICES=1 vllm serve org/m --tensor_parallel_size 2 --max-model-len 8k -O3 --enforce-eager"
    assert from_vllm(command).splitlines() == [
        "option.model_id=org/m",
        "option.tensor_parallel_degree=2",
        "option.max_model_len=8k",
        "option.optimization_level=3",
        "option.enforce_eager=true",
        "option.env=CUDA_VISIBLE_DEVICES\\=1",
    ]


def test_defaults_of_vllm() -> None:
    """A command that says nothing means one GPU, and LoRA with one slot, however many there are."""
    assert from_vllm("vllm serve org/m --enable-lora").splitlines() == [
        "option.max_loras=1", "option.model_id=org/m", "option.tensor_parallel_degree=1", "option.enable_lora=true"
    ]  # fmt: skip
    older = from_vllm("python -m vllm.entrypoints.openai.api_server --model org/m").splitlines()
    assert set(older) == {"option.model_id=org/m", "option.tensor_parallel_degree=1"}


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("A='x,b=c' vllm serve m", "the variable A cannot stand in option.env"),
        ("lmi serve -m n=org/m", "the flags of LMI's own, such as -m, are none of vllm serve's"),
        ("vllm serve 'm", "the command cannot be read: No closing quotation"),
        ("vllm serve m --nonsense", "unknown flag --nonsense"),
        ("vllm serve m --config f.yaml", "--config f.yaml is a file of flags, which lmi serve reads itself"),
        ("vllm serve m --headless", "headless is not supported"),
    ],
)
def test_command_that_is_refused(command: str, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        from_vllm(command)
    assert raised.value.problems[0].text.startswith(text)
    assert raised.value.exit_code == 2


def test_differences(tmp_path: Path) -> None:
    lines = "option.rolling_batch=disable\npredict_timeout=60\noption.enable_lora=yes\noption.foo=1\nmodel_id=org/m"
    found = differences(config_of("-s", "/s", "--enforce-eager", files={"/s/serving.properties": lines}, root=tmp_path))
    for start in (
        "max_rolling_batch_size is not set: LMI runs 32",
        "rolling_batch=disable without async_mode=true: LMI leaves vLLM",
        "predict_timeout: LMI does not apply it in async mode",
        "adapters: LMI answers before",
        "enforce_eager (command line --enforce-eager): LMI takes no flags of vLLM",
        "foo (serving.properties line 4): LMI drops the unknown name",
        "predict_timeout (serving.properties line 2): LMI does not read it without the prefix",
        "enable_lora=yes (serving.properties line 3): parts of LMI understand true and false only",
    ):
        assert any(text.startswith(start) for text in found), (start, found)
    assert not any("job_queue_size" in text for text in found)


def test_difference_of_shared_results() -> None:
    (found,) = [text for text in differences(config_of("org/m", SERVING_DDB_CACHE="true")) if "DynamoDB" in text]
    assert found.endswith("here each server keeps its own, in memory")


def test_hardly_any_difference(tmp_path: Path) -> None:
    lines = "engine=Python\noption.model_id=org/m\noption.rolling_batch=vllm\noption.served_model_name=lmi"
    config = config_of("-s", "/s", files={"/s/serving.properties": lines}, root=tmp_path)
    assert differences(config) == []
