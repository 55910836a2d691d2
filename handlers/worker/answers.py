# SPDX-License-Identifier: Apache-2.0
"""What a user's function may return, as the parts of an HTTP answer. Used in the worker process, by `runner.py`.

An `Output` whose content is a frame follows LMI's rules for frames, whatever the mode: `data` is the body, or the next
piece of it; `error` and `code` make an error answer.
"""

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from djl_python.outputs import Output, decode_frame

_ERROR_CODE = 424
_JSON = "application/json"
_BATCH_KEY = re.compile(r"batch_(\d+)\.")


class InvalidReturn(TypeError):
    """The function returned, or yielded, something that is no answer."""


@dataclass(slots=True)
class Piece:
    """A whole answer, or the next part of a streamed one.

    Attributes:
        status, message, properties: as in `Output`; of a stream the first piece that is sent decides.
        data: the bytes.
        is_last: nothing follows in a stream, whatever the generator yields.
        is_error: the piece says that the answer failed.
    """

    data: bytes
    status: int = 200
    message: str = "OK"
    properties: Mapping[str, str] | None = None
    is_last: bool = False
    is_error: bool = False


def is_stream(value: Any, is_strict: bool) -> bool:
    """The value is something to iterate over, one piece of the answer after the other."""
    if isinstance(value, Output):
        return value.stream_content is not None
    if hasattr(value, "__aiter__"):
        return True
    return not is_strict and isinstance(value, Iterator)


def source(value: Any) -> Iterable[Any] | AsyncIterator[Any]:
    """What to iterate over, of a value that is a stream."""
    return cast(Iterable[Any], value.stream_content if isinstance(value, Output) else value)


def whole(value: Any, is_strict: bool) -> Piece:
    """The answer that a value is.

    Raises:
        InvalidReturn: it is none.
    """
    if isinstance(value, Output):
        return _of_output(value, b"")
    if is_strict:
        raise InvalidReturn(f"Invalid output type: {type(value)}")
    return _plain(value, "")


def piece(item: Any, origin: Any, is_strict: bool) -> Piece:
    """The part of a streamed answer that one item is.

    Args:
        item: what the iterator gave.
        origin: what the function returned.
        is_strict: only LMI's types count.

    Raises:
        InvalidReturn: it is none.
    """
    if isinstance(origin, Output):
        formatted = item if origin.stream_output_formatter is None else origin.stream_output_formatter(item)
        return Piece(_bytes(formatted), _status(origin.code), str(origin.message), _headers(origin))
    if isinstance(item, Output):
        return _of_output(item, b"\n")
    if is_strict:
        raise InvalidReturn(f"Invalid output type: {type(item)}")
    return _plain(item, "\n")


def parts(value: Any) -> list[bytes]:
    """The bytes per item of the answer to a batch: of every key `batch_<number>.<name>` the first, by number."""
    if not isinstance(value, Output):
        return []
    found: dict[int, bytes] = {}
    for key, data in zip(value.content.get_keys(), value.content.get_values(), strict=True):
        if match := _BATCH_KEY.match(key or ""):
            found.setdefault(int(match[1]), _bytes(data))
    return [found[number] for number in sorted(found)]


def error_body(text: str, code: int) -> bytes:
    """LMI's body of a handler's failure."""
    return json.dumps({"error": text, "code": code}, ensure_ascii=False).encode("utf-8", "backslashreplace")


def finalizer(value: Any) -> Any:
    """What an `Output` wants to have done once it was delivered; None for nothing."""
    return value.execute_finalize if isinstance(value, Output) and value.finalize_function is not None else None


def _of_output(output: Output, end: bytes) -> Piece:
    properties = _headers(output)
    status, message = _status(output.code), str(output.message)
    values = output.content.get_values()
    frame = _frame(values[0]) if values else None
    if frame is None:
        data = output.content.get("data")
        body = data if data is not None else values[0] if values else b""
        return Piece(_bytes(body), status, message, properties)
    is_last = frame.get("last", "").lower() == "true"
    if "error" in frame or "code" in frame:
        code = _status(int(frame.get("code", _ERROR_CODE)))
        body = {"error": frame["error"]} if "error" in frame else {}
        data = json.dumps({**body, "code": code}, ensure_ascii=False).encode("utf-8", "backslashreplace")
        text = frame.get("error", message)
        return Piece(data + end, code, text, {"Content-Type": _JSON}, is_last=True, is_error=True)
    return Piece(frame["data"].encode("utf-8", "surrogateescape"), status, message, properties, is_last)


def _frame(value: Any) -> dict[str, str] | None:
    pairs = getattr(value, "pairs", None)
    if isinstance(pairs, dict):
        return {name: str(text) for name, text in pairs.items()} if {"data", "error"} & pairs.keys() else None
    return decode_frame(bytes(value)) if isinstance(value, bytes | bytearray) else None


def _headers(output: Output) -> dict[str, str]:
    return {str(name): str(value) for name, value in output.properties.items()}


def _status(code: Any) -> int:
    if isinstance(code, bool) or not isinstance(code, int) or not 200 <= code <= 599:
        raise InvalidReturn(f"{code!r} is no HTTP status of an answer: 200 to 599")
    return int(code)


def _plain(value: Any, end: str) -> Piece:
    if isinstance(value, str):
        return Piece((value + end).encode("utf-8", "backslashreplace"), properties={"Content-Type": "text/plain"})
    if isinstance(value, bytes | bytearray):
        return Piece(bytes(value), properties={"Content-Type": "application/octet-stream"})
    if isinstance(value, dict | list):
        kind = "application/jsonlines" if end else _JSON
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise InvalidReturn(f"the {type(value).__name__} is not JSON: {error}") from None
        return Piece((text + end).encode("utf-8", "backslashreplace"), properties={"Content-Type": kind})
    raise InvalidReturn(f"Invalid output type: {type(value)}")


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace")
    return bytes(value) if isinstance(value, bytes | bytearray) else bytes(Output._encode_json(value))
