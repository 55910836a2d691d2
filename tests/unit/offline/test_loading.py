# SPDX-License-Identifier: Apache-2.0
"""Keywords of the engine go the way of a configuration file."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving import demo
from serving.config.host import Host
from serving.errors import ConfigError
from serving.offline.loading import Loading, prepare

pytestmark = pytest.mark.pure


def prepared(env: dict[str, str] | None = None, *, is_script: bool = False, **keywords: Any) -> Loading:
    return prepare(demo.MODEL_DIR, keywords, is_script, env or {})


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"max_model_len": "16k"}, {"max_model_len": 16000}),
        ({"tensor_parallel_degree": 2}, {"tensor_parallel_size": 2}),
        ({"hf_overrides": {"rope_theta": 1.0}}, {"hf_overrides": {"rope_theta": 1.0}}),
        ({"download_dir": Path("/tmp/x")}, {"download_dir": "/tmp/x"}),
        ({"enable_lora": True, "max_loras": 3}, {"enable_lora": True, "max_loras": 3}),
        ({"quantization": "awq"}, {"quantization": "awq"}),
        ({"speculative_config": {"method": "ngram"}}, {"speculative_config": {"method": "ngram"}}),
        ({"tokenizer_mode": None}, {}),
    ],
    ids=str,
)
def test_keywords(keywords: dict[str, Any], expected: dict[str, Any]) -> None:
    values = prepared(**keywords).config.vllm_arguments
    assert {name: values[name] for name in expected} == expected


def test_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "local", classmethod(lambda cls, env: Host(device_count=4)))
    made = prepared(tensor_parallel_size="max", is_script=True)
    assert made.config.vllm_arguments["tensor_parallel_size"] == 4
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in made.variables


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_modle_len", "no keyword 'max_modle_len'; did you mean max_model_len"),
        ("frobnicate", "no keyword 'frobnicate'$"),
        ("port", "'port' configures a server"),
        ("job_queue_size", "'job_queue_size' configures a server"),
    ],
)
def test_unknown(name: str, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        prepared(**{name: 1})


def test_of_the_past(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        values = prepared(swap_space=4, guided_decoding_backend="xgrammar").config.vllm_arguments
    assert "swap_space (keyword swap_space) has no effect" in caplog.text
    assert values["structured_outputs_config"] == {"backend": "xgrammar"}


def test_bad_value() -> None:
    with pytest.raises(ConfigError, match=r"max_model_len='long'.*keyword max_model_len"):
        prepared(max_model_len="long")


def test_no_model() -> None:
    with pytest.raises(ConfigError, match="/nowhere/model"):
        prepare("/nowhere/model", {}, env={})


def test_objects() -> None:
    """What no text can say is handed over as it is."""
    made = prepared(hf_overrides=print, mamba_config={"a": 1})
    assert made.objects == {"hf_overrides": print, "mamba_config": {"a": 1}}


def test_variables_of_a_server() -> None:
    env = {"OPTION_MAX_MODEL_LEN": "64", "SERVING_PORT": "1", "HF_MODEL_ID": "a/b", "VLLM_API_KEY": "secret"}
    values = prepared(env).config.vllm_arguments
    assert values["model"] == str(demo.MODEL_DIR)
    assert "api_key" not in values
    assert values.get("max_model_len") != 64


@pytest.mark.parametrize(
    ("env", "is_script", "expected"),
    [({}, True, "0"), ({}, False, None), ({"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}, True, None)],
)
def test_process_of_the_engine(
    env: dict[str, str], is_script: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "local", classmethod(lambda cls, env: Host()))
    variables = prepared(env, is_script=is_script).variables
    assert variables.get("VLLM_ENABLE_V1_MULTIPROCESSING") == expected
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in variables


def test_the_demo_by_name() -> None:
    assert prepare("demo", {"enable_lora": True}, env={}).config.adapters.keys() == set(demo.adapter_names())


def test_import_is_light() -> None:
    code = (
        "import sys; from serving import offline; print([n for n in ('vllm', 'torch', 'fastapi') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert run.stdout.strip() == "[]"
