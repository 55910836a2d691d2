# SPDX-License-Identifier: Apache-2.0
"""Loading a `model.py`: how often it runs, what it can import, which of its functions are found."""

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from djl_python import input_parser, output_formatter
from djl_python.custom_formatter_handling import CustomFormatterError, CustomFormatterHandler
from djl_python.custom_handler_service import CustomHandlerService
from djl_python.service_loader import (
    find_decorated_function,
    get_annotated_function,
    has_function_in_module,
    is_valid_dir,
    load_model_service,
)
from djl_python.utils import get_sagemaker_function
from tests.unit.djl_python.test_async_utils import frame
from tests.unit.djl_python.test_inputs import request

pytestmark = pytest.mark.pure

MARKED = """
from djl_python.input_parser import input_formatter, init_handler, prediction_handler
from djl_python.output_formatter import output_formatter

S = {}

@input_formatter
def b_fmt(payload):
    return {"inputs": "b"}

@input_formatter
def a_fmt(payload, tokenizer=None):
    S["t"] = tokenizer
    return {"inputs": payload["q"]}

@output_formatter
def out(answer):
    return {"t": S.get("t"), "answer": answer}

@init_handler
def load(model_dir, **kwargs):
    return model_dir, kwargs

@prediction_handler
def predict(x, model):
    return x * model
"""


def write(folder: Path, text: str, name: str = "model.py") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder)


def loaded(folder: Path, text: str) -> CustomFormatterHandler:
    functions = CustomFormatterHandler()
    functions.load_formatters(write(folder, text))
    return functions


@pytest.mark.parametrize("module", [input_parser, output_formatter])
@pytest.mark.parametrize("name", ["input_formatter", "output_formatter", "init_handler", "prediction_handler"])
def test_decorators(module: ModuleType, name: str) -> None:
    def function() -> None: ...

    assert getattr(module, name)(function) is function
    assert vars(function) == {f"is_{name}": True}


def test_formatters_share_one_module(tmp_path: Path) -> None:
    """The contract's cases G62 and G63, and arguments that a function has no place for."""
    functions = loaded(tmp_path, MARKED)
    assert functions.apply_input_formatter({"q": "x"}, tokenizer="T", other=1) == {"inputs": "x"}
    assert functions.apply_output_formatter("D", anything=1) == {"t": "T", "answer": "D"}
    assert functions.apply_init_handler("dir", seed=1) == ("dir", {"seed": 1})
    assert functions.apply_prediction_handler(2, 3, unknown=1) == 6
    assert not functions.is_sagemaker_script


def test_decorators_of_the_files_own(tmp_path: Path) -> None:
    module = ModuleType("m")
    exec("def f(): pass\nf.is_input_formatter = True\ndef a(): pass\na.is_input_formatter = False", vars(module))
    assert find_decorated_function(module, "is_input_formatter") is module.f
    assert find_decorated_function(module, "is_output_formatter") is None


async def test_formatters_on_a_stream(tmp_path: Path) -> None:
    text = "def f(c): return c * 2\nf.is_output_formatter = True"
    for kind in ("", "async "):
        functions = loaded(tmp_path, kind + text)
        assert [one async for one in functions.apply_output_formatter_streaming_raw(chunks("a", "b"))] == ["aa", "bb"]


async def chunks(*of: Any) -> Any:
    for one in of:
        yield one


def test_without_functions(tmp_path: Path) -> None:
    functions = CustomFormatterHandler()
    functions.load_formatters(str(tmp_path))
    assert functions.apply_input_formatter(payload := {}) is payload
    assert functions.apply_output_formatter(payload) is payload
    assert functions.apply_init_handler("d") is None
    assert functions.apply_prediction_handler(1, 2) is None


def test_sagemaker_names_go_by_position(tmp_path: Path) -> None:
    text = "def input_fn(object, kind): return object, kind\ndef output_fn(result, accepted): return result, accepted"
    functions = loaded(tmp_path, text)
    assert functions.is_sagemaker_script
    assert functions.apply_input_formatter(b"4", content_type="a/b", tokenizer="T") == (b"4", "a/b")
    assert functions.apply_output_formatter(4, accept="c/d") == (4, "c/d")


def test_marked_functions_win_over_sagemakers(tmp_path: Path) -> None:
    functions = loaded(tmp_path, MARKED + "\ndef predict_fn(a, b): return None\ndef input_fn(a, b): return None")
    assert not functions.is_sagemaker_script
    assert functions.prediction_handler.__name__ == "predict"


def test_a_failure_names_its_cause(tmp_path: Path) -> None:
    """The contract's case G56."""
    functions = loaded(tmp_path, "def f(p): raise ValueError('bad q')\nf.is_input_formatter = True")
    with pytest.raises(CustomFormatterError) as caught:
        functions.apply_input_formatter({})
    assert str(caught.value) == "Custom input formatter execution failed: ValueError: bad q"
    assert isinstance(caught.value.original_exception, ValueError)
    assert caught.value.__cause__ is caught.value.original_exception


def test_files_that_dont_load(tmp_path: Path) -> None:
    with pytest.raises(CustomFormatterError, match="ModuleNotFoundError: No module named 'not_there_xyz'") as caught:
        loaded(tmp_path, "import not_there_xyz")
    assert isinstance(caught.value.original_exception, ImportError)
    assert loaded(tmp_path, "raise ValueError('top')").input_formatter is None
    write(tmp_path, "raise ValueError('top')")
    assert get_annotated_function(str(tmp_path), "is_input_formatter") is None
    write(tmp_path, "1 / 0")
    with pytest.raises(ZeroDivisionError):
        get_annotated_function(str(tmp_path), "is_input_formatter")


def test_a_load_executes_once(tmp_path: Path) -> None:
    count = f"with open({str(tmp_path / 'count')!r}, 'a') as file:\n    file.write('x')\n"
    folder = write(tmp_path, count + MARKED)
    CustomFormatterHandler().load_formatters(folder)
    assert (tmp_path / "count").read_text() == "x"


def test_loads_are_modules_of_their_own(tmp_path: Path) -> None:
    folder = write(tmp_path, "V = []")
    first, second = (load_model_service(folder, "model.py", -1).module for _ in range(2))
    assert first is not second
    assert first.V is not second.V
    assert first.__name__ != second.__name__
    assert sys.modules[first.__name__] is first
    assert first.__file__ == str(tmp_path / "model.py")


def test_helpers_beside_the_file(tmp_path: Path) -> None:
    """The relative import of the contract's case G53."""
    write(tmp_path, "V = 1", "helper.py")
    folder = write(
        tmp_path, "from . import helper\nfrom .helper import V\ndef late():\n  from . import helper as h\n  return h.V"
    )
    module = load_model_service(folder, "model.py", -1).module
    assert (module.helper.V, module.V, module.late()) == (1, 1, 1)


def test_a_failed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError):
        load_model_service(write(tmp_path, "1 / 0"), "model.py", -1)
    assert set(sys.modules) == before


def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "sub", "V = 1", "other.py")
    assert load_model_service(str(tmp_path), "sub/other.py", -1).module.V == 1
    assert load_model_service("/", str(tmp_path / "sub" / "other.py"), -1).module.V == 1
    write(tmp_path, "V = 2", "dotted_entry_xyz.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    service = load_model_service(str(tmp_path), "dotted_entry_xyz", -1)
    assert service.module is sys.modules["dotted_entry_xyz"]
    missing = tmp_path / "nope.py"
    with pytest.raises(ValueError, match=f"^entry-point file not found {missing}.$"):
        load_model_service(str(tmp_path), "nope.py", -1)


def test_calling(tmp_path: Path) -> None:
    text = "def handle(i): return i.get_property('model_dir')\nasync def later(i): return handle(i)\nvalue = 5"
    folder = write(tmp_path, text)
    service = load_model_service(folder, "model.py", -1)
    assert service.invoke_handler("handle", request(b"")) == folder
    assert asyncio.run(service.invoke_handler_async("later", request(b""))) == folder
    assert asyncio.run(service.invoke_handler_async("handle", request(b""))) == folder
    assert [has_function_in_module(service.module, name) for name in ("later", "value", "absent")] == [
        True,
        False,
        False,
    ]
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        service.invoke_handler("absent", request(b""))


def test_folders(tmp_path: Path) -> None:
    assert is_valid_dir(str(tmp_path)) == str(tmp_path)
    with pytest.raises(ValueError, match="is not a directory"):
        is_valid_dir(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("def input_fn(request_body, request_content_type): pass", "input_fn", True),
        ("def input_fn(input_object, content_type): pass", "input_fn", False),
        ("def model_fn(model_dir): pass", "model_fn", True),
        ("def model_fn(model_dir): pass", "predict_fn", False),
        ("1 / 0", "model_fn", False),
    ],
)
def test_sagemaker_functions_by_parameter_names(tmp_path: Path, text: str, name: str, found: bool) -> None:
    assert (get_sagemaker_function(write(tmp_path, text), name) is not None) is found


def test_custom_handler_service(tmp_path: Path) -> None:
    async def answer(text: str) -> Any:
        return await CustomHandlerService({"model_dir": write(tmp_path, text)}).handle(request(b"x"))

    assert asyncio.run(answer("async def handle(i): return i.get_as_string()")) == "x"
    assert asyncio.run(answer("def handle(i): return i.get_as_string()")) == "x"
    failed = frame(asyncio.run(answer("def handle(i): raise RuntimeError('boom')")))
    assert (failed["error"], failed["code"]) == ("Custom handler failed: boom", 424)
    assert asyncio.run(answer("x = 1")) is None
    empty = CustomHandlerService({"model_dir": str(tmp_path / "absent")})
    assert (empty.custom_handler, empty.initialized) == (None, False)


def test_saved_twice_in_one_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's cache of compiled files would take the second for the first: same second, same size."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    values = []
    for value in (1, 2):
        path = Path(write(tmp_path, f"VALUE = {value}\n")) / "model.py"
        os.utime(path, (1_000_000_000, 1_000_000_000))
        values.append(vars(load_model_service(str(tmp_path), "model.py", None).module)["VALUE"])
    assert values == [1, 2]
