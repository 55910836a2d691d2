# SPDX-License-Identifier: Apache-2.0
"""Output: content, exact JSON, frames, streams."""

import copy
import datetime
import json
import pickle
from typing import Any

import numpy as np
import pytest

from djl_python import Output
from djl_python.outputs import Frame, decode_frame

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("ä", "ä".encode()),
        (b"\xff", b"\xff"),
        (bytearray(b"x"), b"x"),
        ({"a": [1, "ä"]}, '{\n  "a":[\n    1,\n    "ä"\n  ]\n}'.encode()),
        (5, b"5"),
        (None, b"null"),
        ("\udc80", b"\\udc80"),
    ],
)
def test_add(value: Any, body: bytes) -> None:
    assert Output().add(value).content.values == [body]


def test_everything_can_be_chained() -> None:
    output = Output()
    changes = (
        lambda: output.set_code(201),
        lambda: output.set_message("Made"),
        lambda: output.add_property("A", 1),
        lambda: output.add("x"),
        lambda: output.add_as_string(5),
        lambda: output.add_as_json("s", "k"),
        lambda: output.add_as_numpy(np.ones(1)),
        lambda: output.add_as_npz([np.ones(1)]),
        lambda: output.add_stream_content(iter(())),
        lambda: output.finalize(print),
        lambda: output.error("e"),
    )
    for change in changes:
        assert change() is output
    assert output.content.values[:3] == [b"x", b"5", b'"s"']


def test_content_keys() -> None:
    output = Output().add("a", batch_index=0).add("b", "k", 1).add("c")
    assert output.content.keys == ["batch_0.", "batch_1.k", None]


def test_a_key_that_is_not_text(caplog: pytest.LogCaptureFixture) -> None:
    assert Output().add("a", 7).content.keys == ["7"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_json_of_numpy() -> None:
    """The contract's case G18."""
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5)
    output = Output().add_as_json({"i": np.int64(1), "f": np.float32(0.5), "a": np.ones(2), "t": moment})
    assert json.loads(output.content.value_at(0)) == {"i": 1, "f": 0.5, "a": [1.0, 1.0], "t": "2020-01-02 03:04:05"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [np.float32("nan")], np.array([np.inf])])
def test_numbers_that_json_cant_say(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Output().add_as_json(value)


@pytest.mark.parametrize("value", [np.bool_(True), {1}, b"x"])
def test_types_that_json_has_no_word_for(value: Any) -> None:
    with pytest.raises(TypeError, match="is not JSON serializable"):
        Output().add_as_json({"v": value})


def test_error() -> None:
    output = Output().add("first").error("bad", code=400, message="nope")
    assert (output.code, output.message, output.get_properties()) == (400, "nope", {"content-type": "application/json"})
    assert output.content.value_at(0) == b"first"
    assert json.loads(output.content.value_at(1)) == {"code": 400, "message": "nope", "error": "bad"}
    default = Output().error("e")
    assert (default.code, default.message) == (424, "invoke handler failure")


def test_properties_go_by_exact_spelling() -> None:
    output = Output().add_property("Content-Type", "a/b")
    assert (output.get_property("Content-Type"), output.get_property("content-type")) == ("a/b", None)


def test_frame_bytes() -> None:
    frame = Output.binary_encode({"data": "ä", "last": True})
    assert frame == (b"\x00\x02\x00\x00\x00\x04data\x00\x00\x00\x02\xc3\xa4\x00\x00\x00\x04last\x00\x00\x00\x04True")
    assert isinstance(frame, Frame)
    assert isinstance(frame, bytearray)
    assert frame.pairs == {"data": "ä", "last": True}
    assert decode_frame(frame) == decode_frame(bytes(frame)) == {"data": "ä", "last": "True"}


@pytest.mark.parametrize(
    ("data", "pairs"),
    [
        (Output.binary_encode({"data": ""}), {"data": ""}),
        (Output.binary_encode({"error": None}), {"error": "None"}),
        (Output.binary_encode({"last": True}), None),
        (Output.binary_encode({"data": "x"}) + b"y", None),
        (Output.binary_encode({"data": "x"})[:-1], None),
        (Output.binary_encode({"data": "x"}).replace(b"\x00\x00\x00\x01x", b"\xff\xff\xff\xff"), None),
        (Output.binary_encode({"data": "x"}).replace(b"x", b"\xff"), None),
        (b"", None),
        (b"\x00\x00", None),
        (b'{"data": 1}', None),
    ],
)
def test_decode_frame(data: bytes, pairs: dict | None) -> None:
    assert decode_frame(bytes(data)) == pairs


def test_write_utf8() -> None:
    message = bytearray()
    Output.write_utf8(message, None)
    Output.write_utf8(message, "a")
    assert message == b"\xff\xff\xff\xff\x00\x00\x00\x01a"


def test_stream_items() -> None:
    """The contract's case G36."""
    wrapped = Output().add_stream_content(iter([["a"], ["b"]]))
    assert (
        b"".join(map(wrapped.encode_stream_item, wrapped.stream_content)) == b'{"outputs": ["a"]}\n{"outputs": ["b"]}\n'
    )
    plain = Output().add_stream_content(["x", b"y", {"d": 1}], None)
    assert b"".join(map(plain.encode_stream_item, plain.stream_content)) == b'xy{\n  "d":1\n}'


def test_finalize(caplog: pytest.LogCaptureFixture) -> None:
    assert Output().execute_finalize() is None
    assert Output().finalize(lambda *numbers: sum(numbers), 1, 2, 3).execute_finalize() == 6
    assert Output().finalize(lambda: 1 / 0).execute_finalize() is None
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


def test_as_text() -> None:
    shown = json.loads(str(Output(201, "Made").add_property("A", "b").add("secret", "k").add(Output.binary_encode({}))))
    assert shown == {
        "code": 201,
        "message": "Made",
        "properties": {"A": "b"},
        "content": {"k": "bytes", "None": "Frame"},
    }


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies(copied: Any) -> None:
    output = Output(201).add_property("A", "b").add(Output.binary_encode({"data": "x", "last": False}))
    other = copied(output)
    assert (other.code, other.properties) == (201, {"A": "b"})
    frame = other.content.value_at(0)
    assert (type(frame), frame.pairs) == (Frame, {"data": "x", "last": False})
    assert frame == output.content.value_at(0)
