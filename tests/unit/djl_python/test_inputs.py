# SPDX-License-Identifier: Apache-2.0
"""Input: how it is read, and how a batch is taken apart."""

import copy
import io
import json
import pickle
from typing import Any

import numpy as np
import pytest

from djl_python import Input
from djl_python.inputs import EmptyInputError, Properties
from djl_python.np_util import to_nd_list, to_npz

pytestmark = pytest.mark.pure


def request(body: Any, kind: str | None = None, key: str | None = "data") -> Input:
    inputs = Input()
    if kind:
        inputs.properties["Content-Type"] = kind
    inputs.content.add(key, body)
    return inputs


def test_without_content() -> None:
    inputs = Input()
    assert inputs.is_empty()
    assert inputs.get_as_bytes() is None
    assert inputs.get_data() is None
    assert inputs.get_function_name() is None
    for read in (inputs.get_as_string, inputs.get_as_json, inputs.get_as_numpy, inputs.get_as_npz, inputs.get_as_csv):
        with pytest.raises(EmptyInputError, match="the input is empty"):
            read()
    assert issubclass(EmptyInputError, ValueError)
    assert issubclass(EmptyInputError, AttributeError)


def test_an_empty_body_is_no_empty_input() -> None:
    inputs = request(b"")
    assert not inputs.is_empty()
    assert inputs.contains_key("data")
    assert inputs.get_as_bytes() == b""


def test_which_value_is_read() -> None:
    inputs = request(b"q", key="k")
    inputs.content.add("other", b"o")
    assert inputs.get_as_string() == "q"
    inputs.content.add("data", b"d")
    assert inputs.get_as_string() == inputs.get_as_string("") == "d"
    assert inputs.get_as_string("other") == "o"
    with pytest.raises(KeyError, match="requested data for key:absent is not found!"):
        inputs.get_as_bytes("absent")
    assert not inputs.contains_key("absent")


def test_bad_json() -> None:
    with pytest.raises(json.JSONDecodeError):
        request(b"{").get_as_json()


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/jsonlines", b"[1]", [1]),
        ("text/csv", "ä".encode(), "ä"),
        ("Application/JSON", b"[1]", b"[1]"),
        ("audio/wav", b"\x00", b"\x00"),
        (None, b"x", b"x"),
    ],
)
def test_get_data(kind: str | None, body: bytes, value: Any) -> None:
    assert request(body, kind).get_data() == value


@pytest.mark.parametrize(("kind", "encode"), [("tensor/ndlist", to_nd_list), ("tensor/npz", to_npz)])
def test_get_data_as_arrays(kind: str, encode: Any) -> None:
    """The contract's case G17."""
    first, second = request(encode([np.arange(3), np.eye(2)]), kind).get_data()
    np.testing.assert_array_equal(first, np.arange(3))
    np.testing.assert_array_equal(second, np.eye(2))


def test_images() -> None:
    images = pytest.importorskip("PIL.Image")
    memory = io.BytesIO()
    images.new("RGB", (2, 3)).save(memory, "png")
    assert request(memory.getvalue(), "image/png").get_data().size == (2, 3)


def test_csv_rows() -> None:
    assert request(b"a,b\n1,2\n").get_as_csv() == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("separator", [".", "_"])
def test_batches(separator: str) -> None:
    batch = Input()
    batch.properties = Properties(
        {"batch_size": "2", f"batch_001{separator}Content-Type": "text/plain", "other": "o"}, options={"model_id": "m"}
    )
    batch.function_name = "handle"
    batch.content.add(f"batch_001{separator}data", b"b")
    batch.content.add(f"batch_000{separator}data", b"a")
    batch.content.add(f"batch_001{separator}k", b"c")
    first, second = batch.get_batches()
    assert (first.properties, first.content.keys, first.content.values) == ({}, ["data"], [b"a"])
    assert (second.properties, second.content.keys) == ({"Content-Type": "text/plain"}, ["data", "k"])
    assert second.get_data("k") == "c"
    assert second.get_function_name() is None
    assert second.properties["model_id"] == "m"


def test_one_request_is_its_own_batch() -> None:
    inputs = request(b"x")
    assert inputs.get_batches()[0] is inputs
    assert (inputs.is_batch(), inputs.get_batch_size()) == (False, 1)


@pytest.mark.parametrize(("key", "error"), [("data", ValueError), ("batch_001_data", ValueError), (None, TypeError)])
def test_content_that_belongs_to_no_item(key: str | None, error: type[Exception]) -> None:
    batch = request(b"x", key=key)
    batch.properties["batch_size"] = 1
    with pytest.raises(error):
        batch.get_batches()


def test_as_text() -> None:
    inputs = request(b'{"a":1}', "application/json", "k")
    inputs.content.add("l", b"2")
    assert str(inputs) == "properties: {'Content-Type': 'application/json'}\nk: {'a': 1}\nl: 2"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies(copied: Any) -> None:
    class_of_users = type("Mine", (Input,), {})
    assert isinstance(class_of_users(), Input)
    inputs = request(b"x", "text/plain")
    inputs.function_name = "f"
    other = copied(inputs)
    assert (other.function_name, other.properties["content-type"], other.get_as_string()) == ("f", "text/plain", "x")
    other.content.add("more", b"y")
    assert inputs.content.size() == 1
