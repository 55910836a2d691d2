# SPDX-License-Identifier: Apache-2.0
"""What `lmi config` says of the user's code, and the refusals of `lmi handler test` and `lmi reload`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.cli import app

pytestmark = pytest.mark.pure


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("code", "handler"),
    [
        (None, "the default handler (async)"),
        ("x = 1", "the default handler (async)"),
        ("def handle(i): pass", "handle of {} in a process of its own, then the default handler (async)"),
        ("def model_fn(d): pass\ndef predict_fn(x, m): pass",
         "model_fn and predict_fn of {} in a process of its own"),
        ("def output_fn(p, a): pass", "formatters of {} around the default handler (async)"),
        ("def handle(:", "{}, which cannot be read: SyntaxError in model.py, line 1: invalid syntax"),
    ],
)  # fmt: skip
def test_config_says_who_answers(tmp_path: Path, code: str | None, handler: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    if code is not None:
        (tmp_path / "model.py").write_text(code)
    exit_code, out, _ = run("config", "--json", str(tmp_path))
    assert (exit_code, json.loads(out)["handler"]) == (0, handler.format(tmp_path / "model.py"))


def test_config_refuses_an_entry_point_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("OPTION_ENTRYPOINT", "nope.py")
    exit_code, out, _ = run("config", "--json", str(tmp_path))
    assert exit_code == 1
    assert json.loads(out)["problems"][0]["kind"] == "NOT_FOUND"


def test_handler_test_without_a_handler(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text("{}")
    (tmp_path / "model.py").write_text("x = 1")
    exit_code, _, err = run("handler", "test", str(tmp_path), "--request", str(tmp_path / "request.json"))
    assert exit_code == 1
    assert f"lmi: error: {tmp_path} has no file with a function 'handle'; write model.py" in err


def test_reload_without_a_server() -> None:
    exit_code, _, err = run("reload", "--url", "http://127.0.0.1:1")
    assert exit_code == 1
    assert err.startswith("lmi: error: no server at http://127.0.0.1:1: ")
