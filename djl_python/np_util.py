# SPDX-License-Identifier: Apache-2.0
"""Arrays as bytes: the NDList format, `.npz` and `.npy`.

NDList frames are big-endian, the data in them says its own order. NumPy loads inside the functions.
"""

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_MAGIC = "NDAR"
_VERSION = 3
_LAYOUT = b"\x00?"
"""One dimension of unknown meaning."""

_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK"


def to_nd_list(arrays: Any) -> bytearray:
    """Encodes an array, or a list of arrays, as an NDList.

    Raises:
        TypeError: an array holds text or objects, which the format has no place for.
    """
    import numpy as np

    listed = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
    encoded = bytearray(struct.pack(">i", len(listed)))
    for one in listed:
        encoded += _encoded(np.asarray(one))
    return encoded


def from_nd_list(encoded: Any) -> "list[np.ndarray[Any, Any]]":
    """Decodes the arrays of an NDList; of an `.npz` or `.npy` file where the bytes begin as one. All are writable.

    Raises:
        AssertionError: the bytes do not carry the format's name and version.
        ValueError: the bytes end too early.
    """
    start = bytes(encoded[:6])
    if start.startswith(_ZIP_MAGIC):
        return from_npz(encoded)
    if start == _NPY_MAGIC:
        return [_loaded(encoded)]
    reader = _Reader(bytes(encoded))
    return [reader.array() for _ in range(reader.integer())]


def to_npz(arrays: Any) -> bytes:
    """Encodes a list of arrays as an `.npz` file with the members `arr_0`, `arr_1`, ..."""
    from io import BytesIO

    import numpy as np

    memory = BytesIO()
    np.savez(memory, *arrays)
    return memory.getvalue()


def from_npz(encoded: Any) -> "list[np.ndarray[Any, Any]]":
    """Decodes the arrays of an `.npz` file, in its order.

    Raises:
        ValueError: it is no such file, or an array in it is pickled.
    """
    with _loaded(encoded) as members:
        return [members[name] for name in members.files]


def _loaded(encoded: Any) -> Any:
    from io import BytesIO

    import numpy as np

    return np.load(BytesIO(encoded), allow_pickle=False)


def _encoded(array: "np.ndarray[Any, Any]") -> bytes:
    if array.dtype.kind not in "biufc":
        raise TypeError(f"an NDList can't hold arrays of type {array.dtype}")
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    rank = struct.pack(">i", array.ndim)
    return b"".join(
        [
            _text(_MAGIC),
            struct.pack(">i", _VERSION),
            b"\x00",
            _text("default"),
            _text(array.dtype.name.upper()),
            rank,
            struct.pack(f">{array.ndim}q", *array.shape),
            rank,
            _LAYOUT * array.ndim,
            b"<",
            struct.pack(">i", len(data)),
            data,
        ]
    )


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return struct.pack(">h", len(encoded)) + encoded


class _Reader:
    """Reads an NDList from its start."""

    def __init__(self, encoded: bytes):
        self._rest = memoryview(encoded)

    def array(self) -> "np.ndarray[Any, Any]":
        import numpy as np

        if self._string() != _MAGIC:
            raise AssertionError("not an NDList: an array does not begin with NDAR")
        version = self.integer()
        if version != _VERSION:
            raise AssertionError(f"NDList version {version} is unknown; {_VERSION} is expected")
        if bytes(self._take(1)) != b"\x00":
            self._string()
        self._string()
        kind = self._string().lower()
        shape = struct.unpack(f">{(rank := self.integer())}q", self._take(8 * rank))
        self._take(2 * self.integer())
        order = bytes(self._take(1)).decode("latin-1")
        dtype = np.dtype(kind).newbyteorder("<" if order == "<" else ">")
        data = np.frombuffer(self._take(self.integer()), dtype).reshape(shape)
        return data.astype(dtype.newbyteorder("="))

    def integer(self) -> int:
        number: int = struct.unpack(">i", self._take(4))[0]
        return number

    def _string(self) -> str:
        length: int = struct.unpack(">h", self._take(2))[0]
        return bytes(self._take(length)).decode("utf-8")

    def _take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._rest):
            raise ValueError("the NDList ends too early")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken
