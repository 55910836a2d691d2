# SPDX-License-Identifier: Apache-2.0
"""Rows about other people's programs: each names tests that exist; what needs no server is tested here."""

import ast
from functools import cache
from pathlib import Path

import pytest

from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from tests.conformance.cases import Case, cases
from tests.conftest import ROOT

pytestmark = pytest.mark.pure


def resolved(*argv: str, **env: str) -> ResolvedConfig:
    return resolve(env, argv, Host(device_count=2), Path("/none"))


@cache
def names_in(file: str) -> frozenset[str]:
    """The test functions of a file; those of a class with its name in front."""
    found = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = [one for one in members if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        found |= {f"{prefix}{one.name}" for one in functions if one.name.startswith("test_")}
    return frozenset(found)


@pytest.mark.parametrize("case", cases("clients"), ids=str)
def test_row_has_its_tests(case: Case, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    assert case.given["says"]
    assert case.expect["tests"]
    for test in case.expect["tests"]:
        file, _, name = test.partition("::")
        assert name in names_in(file), test


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["--tensor-parallel-size", "2"], {}),
        (["--tensor_parallel_size", "2"], {}),
        (["--tensor_parallel_size=2"], {}),
        (["-tp", "2"], {}),
        ([], {"OPTION_TENSOR_PARALLEL_SIZE": "2"}),
        ([], {"OPTION_TENSOR_PARALLEL_DEGREE": "2"}),
        ([], {"TENSOR_PARALLEL_DEGREE": "max"}),
    ],
)
def test_parallel_size_in_every_spelling(argv: list[str], env: dict[str, str]) -> None:
    assert resolved("org/m", *argv, **env).vllm_arguments["tensor_parallel_size"] == 2


def test_path_of_media_passes_through() -> None:
    config = resolved("org/m", "--allowed_local_media_path", "/")
    assert (config.vllm_arguments["allowed_local_media_path"], config.warnings) == ("/", [])


def test_flags_of_a_start_script() -> None:
    flags = "--model org/m --host 0.0.0.0 --port 9 --tensor-parallel-size 2 --gpu-memory 0.5 --max-model-len 64"
    parser = "--dtype half --trust-remote-code --enable-auto-tool-choice --tool-call-parser hermes"
    values = resolved(*flags.split(), *parser.split()).vllm_arguments
    expected = {
        "model": "org/m", "host": "0.0.0.0", "port": 9, "tensor_parallel_size": 2, "gpu_memory_utilization": 0.5,
        "max_model_len": 64, "dtype": "float16", "trust_remote_code": True, "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected


def test_file_for_both_sides() -> None:
    """The block's server settings are read, its sampling values become defaults, the client's own are told."""
    config = resolved("--config", str(ROOT / "examples/clients/agent_arena.yaml"))
    values = config.vllm_arguments
    expected = {
        "model": "org/name", "host": "localhost", "port": 8000, "max_model_len": 2048, "gpu_memory_utilization": 0.9,
        "override_generation_config": {"temperature": 0.0, "top_p": 0.9, "max_new_tokens": 512},
    }  # fmt: skip
    assert {name: values[name] for name in expected} == expected
    told = [warning.split()[0] for warning in config.warnings if "agent_arena.yaml" in warning]
    assert told == ["backend.type", "backend.api_base"]
