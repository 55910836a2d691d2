# SPDX-License-Identifier: Apache-2.0
"""The executable that stands in for vLLM's."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving import cli
from serving.vllm_shim import install

pytestmark = pytest.mark.pure


def test_installed_executable_is_ours(tmp_path: Path) -> None:
    (tmp_path / "vllm").write_text("another")
    result = CliRunner().invoke(cli.app, ["install-vllm-shim", str(tmp_path)])
    assert result.stdout == f"{tmp_path}/vllm serves with LMI Server\n"
    run = subprocess.run([tmp_path / "vllm", "serve", "--help"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    assert run.stdout.startswith("usage: lmi serve [MODEL]")
    run = subprocess.run([tmp_path / "vllm", "serve", "m", "--nope"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, "unknown flag --nope" in run.stderr) == (2, True)


def test_engines_process_reads_the_executable_without_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's multiprocessing runs a program's main file again in each process that it spawns."""
    monkeypatch.setattr(cli, "vllm_main", lambda: pytest.fail("a second server"))
    runpy.run_path(str(install(tmp_path)), run_name="__mp_main__")
    with pytest.raises(pytest.fail.Exception, match="a second server"):
        runpy.run_path(str(install(tmp_path)), run_name="__main__")


@pytest.mark.parametrize(
    ("arguments", "port"), [(["org/m"], 8000), (["org/m", "--port", "9"], 9), (["org/m", "--config", "c.yaml"], 7)]
)
def test_port(arguments: list[str], port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's, unless a flag or a file says otherwise."""
    (tmp_path / "c.yaml").write_text("port: 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["vllm", "serve", *arguments])
    ports: list[int] = []
    monkeypatch.setattr(cli, "_serve", lambda config, *_: ports.append(config.vllm_arguments["port"]) or 0)
    monkeypatch.setattr(cli, "Starting", lambda: None)
    with pytest.raises(SystemExit, match="0"):
        cli.vllm_main()
    assert ports == [port]


def test_other_subcommands_are_vllms(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    class Upstream:
        @staticmethod
        def main() -> None:
            called.append(sys.argv[1:])

    monkeypatch.setitem(sys.modules, "vllm.entrypoints.cli.main", Upstream)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["vllm", "bench", "serve"])
    cli.vllm_main()
    assert called == [["bench", "serve"]]
