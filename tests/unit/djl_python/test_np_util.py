# SPDX-License-Identifier: Apache-2.0
"""NDLists: exact bytes, round trips, and what is refused."""

import io

import numpy as np
import pytest

from djl_python.np_util import from_nd_list, to_nd_list, to_npz

pytestmark = pytest.mark.pure


def test_exact_bytes() -> None:
    """The contract's case G16."""
    encoded = to_nd_list([np.ones((2,), "float32")])
    assert type(encoded) is bytearray
    assert encoded[4:10] == b"\x00\x04NDAR"
    assert encoded == (
        b"\x00\x00\x00\x01\x00\x04NDAR\x00\x00\x00\x03\x00\x00\x07default\x00\x07FLOAT32"
        b"\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x01\x00?<"
        b"\x00\x00\x00\x08\x00\x00\x80?\x00\x00\x80?"
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool", ">i4"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 1)])
def test_round_trip(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape)), dtype="int8").reshape(shape).astype(dtype)
    single, again = *from_nd_list(to_nd_list(array)), *from_nd_list(bytes(to_nd_list([array])))
    for decoded in (single, again):
        np.testing.assert_array_equal(decoded, array)
        assert decoded.dtype == np.dtype(dtype).newbyteorder("=")
        assert decoded.flags.writeable


def test_columns_first_arrays() -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(from_nd_list(to_nd_list(array))[0], array)


def test_a_name_before_the_array() -> None:
    encoded = bytes(to_nd_list([np.arange(2)]))
    named = encoded.replace(b"\x00\x00\x00\x03\x00", b"\x00\x00\x00\x03\x01\x00\x01n", 1)
    assert from_nd_list(named)[0].tolist() == [0, 1]


def test_files_of_numpys_own() -> None:
    memory = io.BytesIO()
    np.save(memory, np.arange(2))
    assert [one.tolist() for one in from_nd_list(memory.getvalue())] == [[0, 1]]
    assert [one.tolist() for one in from_nd_list(to_npz([np.arange(2), np.arange(1)]))] == [[0, 1], [0]]


@pytest.mark.parametrize("values", [["a"], [object()], np.array(["2020-01-01"], "datetime64[D]")])
def test_types_without_a_place(values: object) -> None:
    with pytest.raises(TypeError, match="an NDList can't hold arrays of type"):
        to_nd_list([np.array(values)])


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"NDAR", b"XXXX", AssertionError),
        (b"\x00\x00\x00\x03", b"\x00\x00\x00\x02", AssertionError),
        (b"\x00\x00\x00\x08", b"\x00\x00\x00\x09", ValueError),
    ],
)
def test_bytes_that_are_none(old: bytes, new: bytes, error: type[Exception]) -> None:
    encoded = bytes(to_nd_list([np.ones((2,), "float32")]))
    with pytest.raises(error):
        from_nd_list(encoded.replace(old, new, 1))


def test_pickles_are_refused() -> None:
    memory = io.BytesIO()
    np.savez(memory, np.array([{}]))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        from_nd_list(memory.getvalue())
