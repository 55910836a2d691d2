# SPDX-License-Identifier: Apache-2.0
"""`decode` and `encode`, a row per content type."""

from typing import Any

import numpy as np
import pytest

from djl_python import Input, Output
from djl_python.encode_decode import EmptyCsvError, decode, encode, encode_csv
from djl_python.np_util import from_nd_list, to_nd_list, to_npz
from tests.unit.djl_python.test_inputs import request

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        (None, b"", {"inputs": ""}),
        ("", b"[1]", [1]),
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("Application/JSON; charset=utf-8", b"5", 5),
        ("application/jsonlines", b"[1]", [1]),
        ("text/plain", b"yo", {"inputs": ["yo"]}),
        ("text/csv", b"inputs\na\nb\n", {"inputs": ["a", "b"]}),
        ("text/csv", b"question,context\nq,c\n", {"inputs": [{"question": "q", "context": "c"}]}),
        ("text/csv", b"INPUTS\na\n", {"inputs": [{"INPUTS": "a"}]}),
        ("audio/wav", b"\x01", {"inputs": b"\x01"}),
        ("application/x-www-form-urlencoded", b"a=1", {"inputs": "a=1"}),
        ("application/octet-stream", b"\x01", {"inputs": b"\x01"}),
    ],
)
def test_decode(kind: str | None, body: bytes, value: Any) -> None:
    """The contract's cases G20 and G21 among them."""
    assert decode(request(body), kind) == value


def test_decode_without_content() -> None:
    assert decode(Input(), None) == {"inputs": ""}
    assert decode(Input(), "application/pdf") == {"inputs": None}


def test_decode_a_key() -> None:
    inputs = request(b"[1]")
    inputs.content.add("k", b"inputs\nx")
    assert decode(inputs, "application/json", key="data") == [1]
    assert decode(inputs, "text/csv", key="k") == {"inputs": ["x"]}


@pytest.mark.parametrize(
    ("kind", "encoder"), [("tensor/npz", to_npz), ("Tensor/NDList", to_nd_list), ("application/x-npy", to_nd_list)]
)
def test_decode_arrays(kind: str, encoder: Any) -> None:
    (array,) = decode(request(encoder([np.arange(3)])), kind)["inputs"]
    assert array.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (b"x,y\n1,2", ValueError, "correct CSV with Header columns"),
        (b"inputs\n", EmptyCsvError, "no rows"),
        (b"", EmptyCsvError, "no rows"),
    ],
)
def test_csv_that_cant_be_read(body: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        decode(request(body), "text/csv")
    assert issubclass(EmptyCsvError, ValueError)
    assert issubclass(EmptyCsvError, IndexError)


@pytest.mark.parametrize(("text", "values"), [(b"1,2\n3,4\n", [[1, 2], [3, 4]]), (b"1,2", [1, 2]), (b"1\n2\n", [1, 2])])
def test_csv_of_numbers(text: bytes, values: list) -> None:
    array = decode(request(text), "text/csv", require_csv_headers=False)
    assert (array.dtype, array.tolist()) == (np.float64, values)


@pytest.mark.parametrize("text", [b"1,a", b"1,2\n3"])
def test_csv_that_is_no_numbers(text: bytes) -> None:
    with pytest.raises(ValueError, match="CSV contains non-numeric data"):
        decode(request(text), "text/csv", require_csv_headers=False)


@pytest.mark.parametrize(
    ("kind", "prediction", "written", "body"),
    [
        (None, {"a": 1}, "application/json", b'{\n  "a":1\n}'),
        ("application/json; x=y", [], "application/json", b"[]"),
        ("text/csv", [{"a": 1, "b": "x"}, {"a": 2}], "text/csv", b"a,b\r\n1,x\r\n2,\r\n"),
    ],
)
def test_encode(kind: str | None, prediction: Any, written: str, body: bytes) -> None:
    output = Output()
    assert encode(output, prediction, kind, key="k") is None
    assert (output.properties, output.content.keys) == ({"Content-Type": written}, ["k"])
    assert output.content.values == [body]


@pytest.mark.parametrize(("kind", "written"), [("tensor/npz", "tensor/npz"), ("image/png", "tensor/ndlist")])
def test_encode_arrays(kind: str, written: str) -> None:
    output = Output()
    encode(output, [np.arange(2)], kind)
    assert output.properties == {"Content-Type": written}
    assert [one.tolist() for one in from_nd_list(output.content.value_at(0))] == [[0, 1]]


def test_encode_csv() -> None:
    assert encode_csv({"a": 1}) == "a\r\n1\r\n"
    assert encode_csv(row for row in [{"a": "x,y"}]) == 'a\r\n"x,y"\r\n'
    assert encode_csv([]) == ""
    with pytest.raises(ValueError, match="b"):
        encode_csv([{"a": 1}, {"b": 2}])
