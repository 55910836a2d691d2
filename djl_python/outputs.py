# SPDX-License-Identifier: Apache-2.0
"""What a handler answers with: status, headers, and a body, a frame or a stream."""

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from djl_python.np_util import to_nd_list, to_npz
from djl_python.pair_list import PairList


class Frame(bytearray):
    """The bytes of a response frame that remembers what it was made from, so that nobody has to parse it again."""

    pairs: dict[str, Any]


class _JSONEncoder(json.JSONEncoder):
    """Writes NumPy's integers, floats and arrays, and dates with a time."""

    def default(self, o: Any) -> Any:
        import datetime
        import sys

        np = sys.modules.get("numpy")
        if np is not None and isinstance(o, np.integer):
            return int(o)
        if np is not None and isinstance(o, np.floating):
            return float(o)
        if np is not None and isinstance(o, np.ndarray):
            return o.tolist()
        if isinstance(o, datetime.datetime):
            return str(o)
        return super().default(o)


def default_stream_formatter(item: Any) -> str:
    """What stream content looks like unless told otherwise: `{"outputs": item}` on a line of its own."""
    return json.dumps({"outputs": item}, ensure_ascii=False, cls=_JSONEncoder) + "\n"


class Output:
    """One answer. Everything that changes it returns it, so that calls can be chained.

    Attributes:
        code: the HTTP status.
        message: the reason phrase; from an adapter hook, the text for the client.
        properties: the response headers.
        content: the body: the pair named `data`, else the first. A frame in the first pair decides instead.
        stream_content: the items of a stream, in place of `content`; None without one.
        stream_output_formatter: turns an item into text, bytes or something for JSON; None leaves it as it is.
        finalize_function: runs after the answer was sent, with `finalize_args`.
    """

    def __init__(self, code: int = 200, message: str = "OK"):
        self.code = code
        self.message = message
        self.properties: dict[str, Any] = {}
        self.content = PairList()
        self.stream_content: Any = None
        self.stream_output_formatter: Callable[[Any], Any] | None = None
        self.finalize_function: Callable[..., Any] | None = None
        self.finalize_args: tuple[Any, ...] = ()

    def set_code(self, code: int) -> "Output":
        """Sets the HTTP status."""
        self.code = code
        return self

    def set_message(self, message: str) -> "Output":
        """Sets the reason phrase."""
        self.message = message
        return self

    def error(self, error: Any, code: int = 424, message: str = "invoke handler failure") -> "Output":
        """Makes this an error with a JSON body of code, message and error; earlier content stays before it."""
        self.code = code
        self.message = message
        self.add_property("content-type", "application/json")
        return self.add_as_json({"code": code, "message": message, "error": error})

    def add_property(self, key: str, val: Any) -> "Output":
        """Sets a response header; the spelling of the key is kept."""
        self.properties[key] = val
        return self

    def get_properties(self) -> dict[str, Any]:
        """The response headers themselves, not a copy."""
        return self.properties

    def get_property(self, key: str) -> Any:
        """A response header in exactly this spelling, or None."""
        return self.properties.get(key)

    def add(self, value: Any, key: Any = None, batch_index: int | None = None) -> "Output":
        """Appends content: text as UTF-8, bytes as they are, anything else as JSON.

        Raises:
            TypeError: JSON has no word for the value.
            ValueError: the value holds a number that JSON can't say.
        """
        if isinstance(value, str):
            value = _utf8(value)
        elif not isinstance(value, bytes | bytearray):
            value = self._encode_json(value)
        self.content.add(_content_key(key, batch_index), value)
        return self

    def add_as_string(self, val: Any, key: Any = None, batch_index: int | None = None) -> "Output":
        """Appends `str(val)` as UTF-8."""
        return self.add(str(val), key, batch_index)

    def add_as_json(self, val: Any, key: Any = None, batch_index: int | None = None) -> "Output":
        """Appends a value as JSON, also text and numbers.

        Raises:
            TypeError: JSON has no word for the value.
            ValueError: the value holds a number that JSON can't say.
        """
        return self.add(self._encode_json(val), key, batch_index)

    def add_as_numpy(self, np_list: Any, key: Any = None, batch_index: int | None = None) -> "Output":
        """Appends an array, or a list of them, as an NDList; the content type is the caller's to set."""
        return self.add(to_nd_list(np_list), key, batch_index)

    def add_as_npz(self, np_list: Any, key: Any = None, batch_index: int | None = None) -> "Output":
        """Appends a list of arrays as an `.npz` file; the content type is the caller's to set."""
        return self.add(to_npz(np_list), key, batch_index)

    def add_stream_content(
        self, stream_content: Any, output_formatter: Callable[[Any], Any] | None = default_stream_formatter
    ) -> "Output":
        """Answers with a stream of these items in place of the content.

        Args:
            stream_content: any iterable, iterator or generator, asynchronous ones too.
            output_formatter: applied to each item; None sends items as they are.
        """
        self.stream_content = stream_content
        self.stream_output_formatter = output_formatter
        return self

    def encode_stream_item(self, item: Any) -> bytes:
        """The bytes to send for one item of the stream: formatted, then as `add` would encode it."""
        formatted = item if self.stream_output_formatter is None else self.stream_output_formatter(item)
        if isinstance(formatted, str):
            return _utf8(formatted)
        return bytes(formatted) if isinstance(formatted, bytes | bytearray) else self._encode_json(formatted)

    def finalize(self, func: Callable[..., Any], *args: Any) -> "Output":
        """Has `func(*args)` run after the answer was sent, also when the client left before."""
        self.finalize_function = func
        self.finalize_args = args
        return self

    def execute_finalize(self) -> Any:
        """Runs the function of `finalize` and returns its result; a failure is only logged."""
        if self.finalize_function is None:
            return None
        try:
            return self.finalize_function(*self.finalize_args)
        except Exception:
            import logging

            logging.getLogger(__name__).exception("The finalize function of an Output failed.")
            return None

    @staticmethod
    def _encode_json(val: Any) -> bytes:
        text = json.dumps(val, ensure_ascii=False, allow_nan=False, indent=2, separators=(",", ":"), cls=_JSONEncoder)
        return _utf8(text)

    @staticmethod
    def write_utf8(msg: bytearray, val: str | None) -> None:
        """Appends a text to `msg`: an int32 length in bytes, then UTF-8; None is the length -1."""
        encoded = b"" if val is None else _utf8(val)
        msg += struct.pack(">i", -1 if val is None else len(encoded)) + encoded

    @staticmethod
    def binary_encode(pairs: Mapping[str, Any]) -> Frame:
        """A response frame: an int16 count, then keys and `str()` of the values as `write_utf8` writes them."""
        frame = Frame(struct.pack(">h", len(pairs)))
        for key, value in pairs.items():
            Output.write_utf8(frame, key)
            Output.write_utf8(frame, str(value))
        frame.pairs = dict(pairs)
        return frame

    def __str__(self) -> str:
        kinds = {
            str(key): type(value).__name__ for key, value in zip(self.content.keys, self.content.values, strict=True)
        }
        shown = {"code": self.code, "message": self.message, "properties": self.properties, "content": kinds}
        return json.dumps(shown, indent=2, default=str)


def decode_frame(data: bytes) -> dict[str, str] | None:
    """The pairs of a response frame; None unless all of the bytes parse as one that has `data` or `error`."""
    pairs = parse_pairs(data)
    return pairs if pairs is not None and ("data" in pairs or "error" in pairs) else None


def parse_pairs(data: bytes) -> dict[str, str] | None:
    """What `Output.binary_encode` wrote, all values as text; None unless all of the bytes parse."""
    try:
        (count,) = struct.unpack_from(">h", data)
        texts, offset = [], 2
        for _ in range(2 * count):
            (length,) = struct.unpack_from(">i", data, offset)
            offset += 4
            if not 0 <= length <= len(data) - offset:
                return None
            texts.append(bytes(data[offset : offset + length]).decode("utf-8"))
            offset += length
    except (struct.error, UnicodeDecodeError):
        return None
    return dict(zip(texts[::2], texts[1::2], strict=True)) if offset == len(data) else None


def _utf8(text: str) -> bytes:
    """Half of a surrogate pair stays the escape that JSON has for it."""
    return text.encode("utf-8", "backslashreplace")


def _content_key(key: Any, batch_index: int | None) -> str | None:
    if key is not None and not isinstance(key, str):
        import logging

        logging.getLogger(__name__).warning("Output content key %r is not text; its str() is used.", key)
        key = str(key)
    return key if batch_index is None else f"batch_{batch_index}.{key or ''}"
