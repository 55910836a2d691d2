# SPDX-License-Identifier: Apache-2.0
"""The test client: requests, answers, handlers of every kind, the command line."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from djl_python import Output, test_model
from djl_python.async_utils import create_non_stream_output
from djl_python.test_model import TestHandler
from tests.unit.djl_python.test_loading import write

pytestmark = pytest.mark.pure

PLAIN = (
    "from djl_python import Output\ndef handle(inputs):\n    return None if inputs.is_empty() else Output().add('s')\n"
)
ASYNC = """
import asyncio
from djl_python import Output
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output
loops = []
async def handle(inputs):
    loops.append(asyncio.get_running_loop())
    return create_non_stream_output({"p": inputs.get_as_json()["inputs"], "same": loops[0] is loops[-1]})
async def chunks():
    for t in "ab":
        yield create_stream_chunk_output(t, t == "b")
async def stream(inputs):
    return chunks()
def fail(inputs):
    raise RuntimeError("boom")
"""
ROLLING = """
from djl_python import Output
seen = {}
def handle(inputs):
    out = Output()
    for i, item in enumerate(inputs.get_batches()):
        text = item.get_as_json()["inputs"]
        seen[text] = seen.get(text, 0) + 1
        out.add(Output.binary_encode({"data": text[seen[text] - 1], "last": seen[text] == len(text)}), "data", i)
    return out
"""


@pytest.fixture(autouse=True)
def same_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A handler changes the working directory and the path of imports."""
    before, path = os.getcwd(), list(sys.path)
    for name in [name for name in os.environ if name.startswith("OPTION_") or name == "HF_MODEL_ID"]:
        monkeypatch.delenv(name)
    yield
    os.chdir(before)
    sys.path[:] = path


def test_a_plain_handler(tmp_path: Path) -> None:
    """The contract's case G74, first half."""
    handler = TestHandler("model.py", write(tmp_path, PLAIN))
    out = handler.inference(test_model.create_json_request({"inputs": "hi"}))
    assert test_model.extract_output_as_string(out) == "s"
    assert handler.start_up() is None
    assert os.getcwd() == str(tmp_path)
    assert sys.path[-1] == str(tmp_path)


def test_asynchronous_handlers(tmp_path: Path) -> None:
    """The contract's case G74, second half; every call runs on the same loop."""
    handler = TestHandler("model.py", write(tmp_path, ASYNC))
    request = test_model.create_json_request({"inputs": "hi"})
    first, second = handler.inference(request), handler.inference(request)
    assert isinstance(first, Output)
    assert second.content.value_at(0).pairs["data"] == '{"p": "hi", "same": true}\n'
    request.function_name = "stream"
    assert [one.content.value_at(0).pairs["data"] for one in handler.inference(request)] == ["a\n", "b\n"]
    request.function_name = "fail"
    with pytest.raises(RuntimeError, match="boom"):
        handler.inference(request)


def test_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODEL_ID", "env")
    monkeypatch.setenv("OPTION_MAX_MODEL_LEN", "5")
    monkeypatch.setenv("OPTION_ENTRYPOINT", "e.py")
    write(tmp_path, "# option.a=1\noption.model_id = file=x\nengine=Python\n\njunk\n", "serving.properties")
    folder = write(tmp_path, "def handle(inputs): return dict(inputs.get_properties())")
    handler = TestHandler("model.py", folder)
    assert handler.serving_properties == {
        "model_id": "file=x",
        "max_model_len": "5",
        "entryPoint": "e.py",
        "engine": "Python",
    }
    request = test_model.create_text_request("x")
    request.properties["engine"] = "own"
    seen = handler.inference(request)
    assert (seen["model_id"], seen["engine"], seen["model_dir"]) == ("file=x", "own", folder)


def test_modules() -> None:
    module = ModuleType("m")
    module.handle = lambda inputs: "h"  # type: ignore[attr-defined]
    assert TestHandler(module).inference(test_model.create_text_request("x")) == "h"
    module._service = SimpleNamespace(initialized=True)  # type: ignore[attr-defined]
    TestHandler(module)
    assert module._service.initialized is False


@pytest.mark.parametrize(
    ("made", "kind", "body"),
    [
        (test_model.create_json_request({"a": 1}), "application/json", b'{"a": 1}'),
        (test_model.create_text_request("ä"), "text/plain", "ä".encode()),
        (test_model.create_3p_request([1]), "application/json", b"[1]"),
    ],
)
def test_requests(made: Any, kind: str, body: bytes) -> None:
    assert list(made.properties)[:2] == ["device_id", "content-type"]
    assert (made.properties["device_id"], made.properties["content-type"]) == ("-1", kind)
    assert made.get_as_bytes("data") == body


def test_requests_of_arrays() -> None:
    arrays = [np.ones((1, 3, 2))]
    for create in (test_model.create_numpy_request, test_model.create_npz_request):
        np.testing.assert_array_equal(create(arrays, "k").get_data("k")[0], arrays[0])
    rows = "\n        ".join(["array([[[1., 1.],", "[1., 1.],", "[1., 1.]]])"])
    shown = f"properties: {{'device_id': '-1', 'content-type': 'tensor/ndlist'}}\nmydata: [{rows}]"
    assert str(test_model.create_numpy_request(arrays, "mydata")) == shown


def test_reading_answers() -> None:
    output = Output().add_as_json({"a": 1}, "j").add_as_numpy([np.arange(2)], "n").add_as_npz([np.arange(3)], "z")
    assert json.loads(test_model.extract_output_as_string(output, "j")) == {"a": 1}
    assert test_model.extract_output_as_numpy(output, "n")[0].tolist() == [0, 1]
    assert test_model.extract_output_as_npz(output, "z")[0].tolist() == [0, 1, 2]
    frame = test_model.extract_output_as_bytes(create_non_stream_output("x"))
    assert test_model.decode_encoded_output_binary(bytes(frame)) == {"data": "x\n", "last": "True"}
    with pytest.raises(ValueError, match="not a response frame"):
        test_model.decode_encoded_output_binary(b"x")


def test_batches() -> None:
    own = [{"eula": "true", "Content-type": "application/json"}, {"n": "2"}]
    serving = {"engine": "MPI", "option.model_id": "m", "handler": "h"}
    batch = test_model.create_concurrent_batch_request([{"inputs": "a"}, "b"], own, serving)
    first, second = batch.get_batches()
    assert (first.properties, second.properties) == (own[0], own[1])
    assert (first.get_as_json(), second.get_as_json()) == ({"inputs": "a"}, "b")
    assert (batch.function_name, batch.properties["batch_size"], batch.properties["engine"]) == ("h", 2, "MPI")
    plain = test_model.create_concurrent_batch_request([{}])
    assert plain.function_name == "handle"
    assert plain.get_batches()[0].properties == {"content-type": "application/json"}


def test_rolling_batches(tmp_path: Path) -> None:
    handler = TestHandler("model.py", write(tmp_path, ROLLING))
    assert handler.inference_rolling_batch([{"inputs": "a"}, {"inputs": "bcd"}]) == {0: "a", 1: "bcd"}


@pytest.mark.parametrize(
    ("word", "key", "body", "kind"),
    [
        ('{"a": 1}', "data", b'{"a": 1}', "application/json"),
        ("plain", "data", b"plain", "text/plain"),
        ("k=v", "k", b"v", "text/plain"),
        ('{"a": "x=y"}', "data", b'{"a": "x=y"}', "application/json"),
        ("p.png", "data", b"p", "image/png"),
        ("k=p.JSON", "k", b"j", "application/json"),
        ("p.bin", "data", b"b", "application/octet-stream"),
    ],
)
def test_words(tmp_path: Path, word: str, key: str, body: bytes, kind: str) -> None:
    for name in ("p.png", "p.JSON", "p.bin"):
        (tmp_path / name).write_text(name[2].lower())
    os.chdir(tmp_path)
    request = test_model.create_request([word], ["x=1"])
    assert (request.content.keys, request.content.values) == ([key, "x"], [body, b"1"])
    assert request.get_property("content-type") == kind


def test_a_parameter_with_two_signs() -> None:
    with pytest.raises(ValueError, match="'a=b=c'"):
        test_model.create_request(["x"], ["a=b=c"])


def test_command_line(tmp_path: Path) -> None:
    shown: list[str] = []
    folder = write(tmp_path, ASYNC)
    test_model._main(["--model-dir", folder, "--input", '{"inputs": "hi"}', "--show-body"], shown.append)
    assert json.loads(shown[0])["content"] == {"None": "Frame"}
    assert shown[1] == '{"p": "hi", "same": true}\n'
    text = "calls = []\ndef handle(i): return i.get_property('async_mode'), i.is_empty(), calls.append(1), len(calls)"
    write(tmp_path, text, "other.py")
    more = ["--entry-point", "other.py", "--async", "--start-up"]
    test_model._main(["--model-dir", folder, "--input", "x", *more], shown.append)
    assert shown[2] == "('true', False, None, 2)"
