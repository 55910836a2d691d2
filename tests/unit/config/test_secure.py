# SPDX-License-Identifier: Apache-2.0
"""SageMaker's secure mode: each control, the options that may be given, and what is wrong with the variables."""

import tarfile
from pathlib import Path

import pytest

from serving import demo
from serving.config.host import Host
from serving.config.resolve import resolve
from serving.errors import ConfigError

pytestmark = pytest.mark.pure
ON = {"SAGEMAKER_SECURE_MODE": "True", "SAGEMAKER_UNTRUSTED_CHANNELS": "/m"}


def found(tmp_path: Path, controls: str | None, files: dict[str, str], **env: str) -> list[str]:
    """Texts of the problems of a model directory with these files."""
    for name, text in {"config.json": "{}", **files}.items():
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_text(text)
    env = {**ON, **({"SAGEMAKER_SECURITY_CONTROLS": controls} if controls is not None else {}), **env}
    try:
        resolve(env, ["/m"], Host(device_count=1, root=tmp_path), demo.MODEL_DIR)
    except ConfigError as error:
        return [problem.text.replace(str(tmp_path), "") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("control", "files", "text"),
    [
        ("DISALLOW_TRUST_REMOTE_CODE", {"serving.properties": "option.trust_remote_code=1"}, "trust_remote_code=true"),
        ("DISALLOW_CUSTOM_INFERENCE_SCRIPTS", {"model.py": ""}, "/m/model.py"),
        (
            "DISALLOW_CUSTOM_INFERENCE_SCRIPTS",
            {"adapters/a/model.py": "", "adapters/a/adapter_config.json": ""},
            "/m/adapters/a/model.py",
        ),
        ("DISALLOW_CUSTOM_INFERENCE_SCRIPTS", {"serving.properties": "option.entryPoint=x.py"}, "entryPoint=x.py"),
        (
            "DISALLOW_CUSTOM_INFERENCE_SCRIPTS",
            {"serving.properties": "option.env=PYTHONPATH=/m"},
            "option.env sets PYTHONPATH",
        ),
        (
            "DISALLOW_CUSTOM_INFERENCE_SCRIPTS",
            {"serving.properties": 'option.compilation_config={"backend": "evil.b"}'},
            "compilation_config has backend=evil.b",
        ),
        ("DISALLOW_REQUIREMENTS_TXT", {"requirements.txt": ""}, "/m/requirements.txt"),
        ("DISALLOW_PICKLE_FILES", {"deep/model.bin": ""}, "/m/deep/model.bin"),
        (
            "DISALLOW_CHAT_TEMPLATE",
            {"tokenizer_config.json": '{"chat_template": "{{ x }}"}'},
            "/m/tokenizer_config.json has a chat_template",
        ),
        ("DISALLOW_CHAT_TEMPLATE", {"tokenizer_config.json": "{"}, "/m/tokenizer_config.json has a chat_template"),
        ("DISALLOW_CHAT_TEMPLATE", {"chat_template.jinja": ""}, "/m/chat_template.jinja"),
    ],
)
def test_control(tmp_path: Path, control: str, files: dict[str, str], text: str) -> None:
    assert found(tmp_path, control, files) == [text]
    assert found(tmp_path, "", files) == []


@pytest.mark.parametrize(("controls", "allows"), [("DISALLOW_CUSTOM_INFERENCE_SCRIPTS", False), ("", True)])
def test_code_of_later_adapters(controls: str, allows: bool) -> None:
    env = {"SAGEMAKER_SECURE_MODE": "true", "SAGEMAKER_SECURITY_CONTROLS": controls}
    assert resolve(env, ["org/m"], Host(), demo.MODEL_DIR).allows_adapter_code is allows


def test_options(tmp_path: Path) -> None:
    """Usual ones, LMI's own default of the mode included, may be given; what reads files or loads code may not."""
    usual = "option.async_mode=true\noption.max_model_len=512\njob_queue_size=5\noption.normalize=true"
    assert found(tmp_path, "", {"serving.properties": usual}) == []
    other = "option.download_dir=/x\noption.tool_parser_plugin=/m/p.py\noption.pythonExecutable=/m/python"
    assert found(tmp_path, "", {"serving.properties": other}) == [
        "download_dir may not be set in secure mode",
        "tool_parser_plugin may not be set in secure mode",
        "pythonExecutable='/m/python' may not be used in secure mode",
    ]


def test_ordinary_start(tmp_path: Path) -> None:
    """LMI's own config.properties, and flags, are the operator's."""
    (tmp_path / "djl").mkdir()
    lines = "cluster_address=http://0.0.0.0:8888\nload_models=ALL\ninference_address=http://0.0.0.0:8080"
    (tmp_path / "djl/config.properties").write_text(lines)
    env = {"MODEL_SERVER_HOME": "/djl", "SERVING_JOB_QUEUE_SIZE": "7"}
    assert found(tmp_path, "", {}, **env) == []


def test_archive_of_a_channel(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with tarfile.open(tmp_path / "m/b.tar.gz", "w:gz") as archive:
        for name in ("config.json", "pytorch_model.bin"):
            archive.addfile(tarfile.TarInfo(name))
    env = {**ON, "SAGEMAKER_SECURITY_CONTROLS": "DISALLOW_PICKLE_FILES", "DJL_CACHE_DIR": "/cache"}
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin"):
        resolve(env, ["/m"], Host(device_count=1, root=tmp_path), demo.MODEL_DIR)


def test_variables(tmp_path: Path) -> None:
    assert found(tmp_path, None, {}) == ["SAGEMAKER_SECURE_MODE=true needs SAGEMAKER_SECURITY_CONTROLS"]
    assert found(tmp_path, "DISALLOW_ALL", {}) == ["SAGEMAKER_SECURITY_CONTROLS=DISALLOW_ALL: there is no such control"]
    assert found(tmp_path, "", {}, SAGEMAKER_UNTRUSTED_CHANNELS="/no") == [
        "SAGEMAKER_UNTRUSTED_CHANNELS: /no is not a directory"
    ]
    assert found(tmp_path, None, {"model.py": ""}, SAGEMAKER_SECURE_MODE="false") == []


def test_another_engine() -> None:
    with pytest.raises(ConfigError, match="SERVING_FEATURES=trtllm: vLLM is the only engine here"):
        resolve({"SERVING_FEATURES": "trtllm"}, ["org/m"], Host(), demo.MODEL_DIR)
    with pytest.raises(ConfigError, match="DJL_CLUSTER_SIZE=2: this server does not start others"):
        resolve({"DJL_CLUSTER_SIZE": "2"}, ["org/m"], Host(), demo.MODEL_DIR)
    assert resolve({"SERVING_FEATURES": "vllm,trtllm"}, ["org/m"], Host(), demo.MODEL_DIR).warnings == []
    assert resolve({"JAVA_OPTS": "-Xmx1g"}, ["org/m"], Host(), demo.MODEL_DIR).warnings == [
        "JAVA_OPTS has no effect: there is no Java here; VLLM_LOGGING_LEVEL=DEBUG logs more"
    ]
