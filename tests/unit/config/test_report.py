# SPDX-License-Identifier: Apache-2.0
"""What `lmi config` shows: winners and losers of every source, typed arguments, refusals, and never a secret."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serving.config import report
from serving.config.host import Host
from serving.config.masking import masked
from serving.config.resolve import ResolvedConfig, resolve
from serving.errors import Problem

pytestmark = pytest.mark.pure


@pytest.fixture
def config(tmp_path: Path) -> ResolvedConfig:
    """One setting given in three places, one unknown option, one secret."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "serving.properties").write_text(
        "option.max_rolling_batch_size=64\noption.foo=1\noption.api_key=sesame"
    )
    env = {"OPTION_MAX_NUM_SEQS": "32", "OPTION_HF_OVERRIDES": '{"a": {"my_token": "sesame"}}'}
    return resolve(env, [str(tmp_path), "--max-num-seqs", "8"], Host(device_count=1), tmp_path)


def test_one_setting_from_three_places(config: ResolvedConfig) -> None:
    assert report.as_data(config)["settings"][0] == {
        "name": "option.max_rolling_batch_size",
        "value": "8",
        "origin": "command line --max-num-seqs",
        "known": True,
        "vllm_argument": "max_num_seqs",
        "overrode": [
            {"value": "64", "origin": "serving.properties line 1"},
            {"value": "32", "origin": "OPTION_MAX_NUM_SEQS"},
        ],
    }
    text = report.as_text(config).split("\n")
    start = next(number for number, line in enumerate(text) if "max_rolling_batch_size" in line)
    assert [" ".join(line.split()) for line in text[start : start + 3]] == [
        "option.max_rolling_batch_size 8 (command line --max-num-seqs)",
        "beats 64 (serving.properties line 1)",
        "beats 32 (OPTION_MAX_NUM_SEQS)",
    ]


def test_no_setting_beats_itself(tmp_path: Path) -> None:
    """A Hub id stands in two layers: as the place of the model, and among the variables."""
    settings = report.as_data(resolve({"HF_MODEL_ID": "org/m"}, [], Host(), tmp_path))["settings"]
    assert [(one["name"], one["origin"], one["overrode"]) for one in settings] == [
        ("option.model_id", "HF_MODEL_ID", [])
    ]


def test_arguments_are_typed_and_complete(config: ResolvedConfig) -> None:
    data = report.as_data(config)
    assert data["vllm_arguments"]["max_num_seqs"] == 8
    assert data["vllm_arguments"]["trust_remote_code"] is False
    assert "revision" not in data["vllm_arguments"]
    assert data["mode"] == {"name": "async", "reason": "nothing asks for another"}
    assert data["warnings"] == ["unknown option foo (serving.properties line 2)"]
    assert json.loads(json.dumps(data)) == data


def test_no_secret_shows(config: ResolvedConfig) -> None:
    assert "sesame" not in report.as_text(config)
    assert "sesame" not in json.dumps(report.as_data(config))
    assert report.as_data(config)["vllm_arguments"]["api_key"] == ["***"]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("hf_token", "x", "***"),
        ("api_key", ["x", "y"], ["***", "***"]),
        ("max_num_batched_tokens", 5, 5),
        (
            "a",
            {"token": "x", "tokens": 1, "b": {"password": "x"}},
            {"token": "***", "tokens": 1, "b": {"password": "***"}},
        ),
        ("a", '{"secret": "x", "b": 1}', '{"secret": "***", "b": 1}'),
        ("a", '{"secret": "x", "b": 1', "***"),
        ("a", "{'API_KEY': 'x'}", "***"),
        ("a", '{\\"api_key\\": \\"x\\"}', "***"),
        ("a", '[{"api_key": "x"}]', '[{"api_key": "***"}]'),
        ("a", {"b": [{"api_key": "x"}]}, {"b": [{"api_key": "***"}]}),
        ("a", '{"max_new_tokens": 1', '{"max_new_tokens": 1'),
        ("a", "http://user:x@host/path", "http://***@host/path"),
        ("a", "text", "text"),
        ("a", None, None),
    ],
)
def test_masking(name: str, value: object, shown: object) -> None:
    assert masked(name, value) == shown


def test_refusal_as_data() -> None:
    problem = Problem("CONFLICT", "text", "origin", "remedy")
    assert report.problems_as_data([problem]) == {
        "problems": [{"kind": "CONFLICT", "text": "text", "origin": "origin", "remedy": "remedy"}]
    }


def lmi_config(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`lmi config` in a process of its own."""
    command = [sys.executable, "-X", "importtime", "-m", "serving", "config", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command() -> None:
    done = lmi_config("--demo", "--json")
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert done.returncode == 0
    assert json.loads(done.stdout)["model_name"] == "demo"
    assert imported & {"vllm", "torch", "transformers", "fastapi"} == set()


@pytest.mark.parametrize(("arguments", "code"), [(["--nope"], 2), (["/no/such/model"], 1), (["--demo", "-h"], 0)])
def test_exit_code(arguments: list[str], code: int) -> None:
    assert lmi_config(*arguments).returncode == code


def test_refusal_of_the_command() -> None:
    done = lmi_config("/no/such/model", "--json")
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["kind"] == "NOT_FOUND"
    assert "lmi: error: directory '/no/such/model' does not exist" in lmi_config("/no/such/model").stderr
