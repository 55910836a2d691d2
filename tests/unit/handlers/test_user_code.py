# SPDX-License-Identifier: Apache-2.0
"""What a user's file has, read from its syntax, and where it is looked for."""

from pathlib import Path

import pytest

from handlers.user_code import UserCode, find, read
from serving.config.options import ASYNC_SERVICE, HUGGINGFACE
from serving.errors import ConfigError

pytestmark = pytest.mark.pure
FORMATTER = "from djl_python.input_parser import input_formatter\n@input_formatter\ndef f(x): pass\n"


def code_of(tmp_path: Path, text: str, handler: str = "handle", **files: str) -> UserCode:
    for name, content in files.items():
        (tmp_path / f"{name}.py").write_text(content)
    path = tmp_path / "model.py"
    path.write_text(text)
    return read(path, handler)


@pytest.mark.parametrize(
    ("text", "has_handler", "has_formatters", "is_script"),
    [
        ("def handle(i): pass", True, False, False),
        ("async def handle(i): pass", True, False, False),
        ("handle = print", True, False, False),
        ("if True:\n    def handle(i): pass", True, False, False),
        ("try:\n    import fast\nexcept ImportError:\n    def handle(i): pass", True, False, False),
        ("from elsewhere import handle", True, False, False),
        ("from elsewhere import answer as handle", True, False, False),
        ("class A:\n    def handle(self, i): pass", False, False, False),
        ("def g():\n    def handle(i): pass", False, False, False),
        ("x = 1", False, False, False),
        (FORMATTER, False, True, False),
        (FORMATTER + "def handle(i): pass", True, True, False),
        ("from djl_python.output_formatter import output_formatter", False, False, False),
        ("import djl_python.output_formatter as o\n@o.output_formatter\ndef f(x): pass", False, True, False),
        ("from djl_python.input_parser import input_formatter as fmt\n@fmt\ndef f(x): pass", False, True, False),
        ("def f(x): pass\nf.is_output_formatter = True", False, True, False),
        ("def input_fn(b, t): pass", False, True, False),
        ("def output_fn(p, a): pass", False, True, False),
        ("def model_fn(d): pass\ndef predict_fn(x, m): pass", False, False, True),
        ("def model_fn(d): pass\ndef predict_fn(x, m): pass\ndef input_fn(b, t): pass", False, False, True),
        ("def model_fn(d): pass\ndef predict_fn(x, m): pass\ndef handle(i): pass", True, False, False),
        ("def model_fn(d): pass\ndef input_fn(b, t): pass", False, True, False),
    ],
)  # fmt: skip
def test_roles(tmp_path: Path, text: str, has_handler: bool, has_formatters: bool, is_script: bool) -> None:
    code = code_of(tmp_path, text)
    assert (code.has_handler, code.has_formatters, code.is_script) == (has_handler, has_formatters, is_script)
    assert code.needs_worker == (has_handler or is_script)


def test_formatters_of_a_sibling(tmp_path: Path) -> None:
    assert code_of(tmp_path, "from helper import f", helper=FORMATTER).has_formatters
    assert not code_of(tmp_path, "from helper import f", helper="def f(x): pass").has_formatters
    assert code_of(tmp_path, "from .helper import f", helper="from model import g\n" + FORMATTER).has_formatters


def test_handler_of_a_sibling(tmp_path: Path) -> None:
    assert code_of(tmp_path, "from helper import *", helper="def handle(i): pass").has_handler
    assert not code_of(tmp_path, "from helper import *", helper="x = 1").has_handler
    assert not code_of(tmp_path, "from elsewhere import *").has_handler


def test_another_name_and_hooks(tmp_path: Path) -> None:
    code = code_of(tmp_path, "def my(i): pass\nasync def register_adapter(i): pass", handler="my")
    assert code.has_handler
    assert code.hooks == ("register_adapter",)


@pytest.mark.parametrize(
    ("text", "has_handler", "has_formatters"),
    [
        ("def handle(i)\n", True, False),
        ("@input_formatter\ndef handle_input(x)\n", False, True),
        ("@input_formatter\ndef f(x)\n", False, True),
        ("x = (\n", False, False),
    ],
)
def test_file_that_cannot_be_read(tmp_path: Path, text: str, has_handler: bool, has_formatters: bool) -> None:
    code = code_of(tmp_path, text)
    assert code.syntax_error.startswith("SyntaxError in model.py, line ")
    assert (code.has_handler, code.has_formatters) == (has_handler, has_formatters)


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    assert find(tmp_path, None, "handle", []) is None
    assert find(None, None, "handle", []) is None
    (tmp_path / "sub").mkdir()
    for name in ("model.py", "sub/entry.py", "single.py"):
        (tmp_path / name).write_text("def handle(i): pass")
    found = {
        entry: find(tmp_path, entry, "handle", [])
        for entry in (
            None,
            ASYNC_SERVICE,
            HUGGINGFACE,
            "sub/entry.py",
            str(tmp_path / "single.py"),
            "sub.entry",
            "json.tool",
        )
    }
    places = {
        entry: (str(code.path), code.is_direct, code.is_named, code.module) for entry, code in found.items() if code
    }
    assert places == {
        None: (str(tmp_path / "model.py"), True, False, None),
        ASYNC_SERVICE: (str(tmp_path / "model.py"), False, True, None),
        HUGGINGFACE: (str(tmp_path / "model.py"), False, True, None),
        "sub/entry.py": (str(tmp_path / "sub/entry.py"), True, True, None),
        str(tmp_path / "single.py"): (str(tmp_path / "single.py"), True, True, None),
        "sub.entry": (str(tmp_path / "sub/entry.py"), True, True, "sub.entry"),
        "json.tool": (places["json.tool"][0], True, True, "json.tool"),
    }


@pytest.mark.parametrize("entry", ["nope.py", "sub/nope.py", "nope", "sub.nope", "json.nope"])
def test_entry_point_that_is_not_there(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find(tmp_path, entry, "handle", [])
    (problem,) = raised.value.problems
    assert problem.kind == "NOT_FOUND"
    assert problem.text.startswith(f"entryPoint={entry!r}: ")


def test_warnings(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def predict_fn(x, m): pass\ndef register_adapter(i): pass")
    (tmp_path / "serving").mkdir()
    warnings: list[str] = []
    find(tmp_path, None, "handle", warnings)
    assert [text.split(":")[0].split(" in ")[0] for text in warnings] == [
        "serving", "model.py", "model.py"
    ]  # fmt: skip
