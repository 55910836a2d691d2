# SPDX-License-Identifier: Apache-2.0
"""Body bytes and content type to a payload object. Called by the handlers, once per request."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from serving.errors import PayloadError

_CSV_COLUMNS = ("question", "context", "inputs")
_NOT_PROMPTS = ("model_name",)
"""Fields of a form that say something about the request."""
FORM = "application/x-www-form-urlencoded"


def decode(content_type: str | None, body: bytes) -> dict[str, Any]:
    """The payload as an object. A text, the cells of a CSV's column `inputs` and a form's field are `inputs`.

    Args:
        content_type: the header as sent, or None. Absent means JSON; so does a form that starts with a brace, because
            that is what curl sends without a header.
        body: the raw body.

    Raises:
        PayloadError: not decodable, or a content type that is not supported.
    """
    kind = kind_of(content_type)
    if is_json(kind, body):
        return as_object(_json(body))
    if kind in _LISTS:
        return {"inputs": _LISTS[kind](_text(body))}
    if kind == FORM:
        return {"inputs": _field(_text(body))}
    if kind == "application/octet-stream":
        return {"inputs": _text(body)}
    raise PayloadError(f"Input parsing failed: content type {kind!r} is not supported; send application/json")


def of_parts(parts: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    """The payload of a form's parts: the part `data`, or the first one, is `inputs`.

    Raises:
        PayloadError: there is none, or it is not text.
    """
    fields = {name: data for name, data in reversed(parts) if name not in _NOT_PROMPTS}
    if not fields:
        raise PayloadError("Input parsing failed: the form has no part with a prompt")
    return {"inputs": _text(fields["data"] if "data" in fields else fields[next(reversed(fields))])}


def decode_any(content_type: str | None, body: bytes) -> Any:
    """What a user's input formatter gets: any JSON value; texts and tables as `inputs`, anything else as its bytes.

    Raises:
        PayloadError: not decodable.
    """
    kind = kind_of(content_type)
    if is_json(kind, body):
        return _json(body)
    return {"inputs": _LISTS[kind](_text(body)) if kind in _LISTS else body}


def as_object(payload: Any) -> dict[str, Any]:
    """`payload`, if it is an object.

    Raises:
        PayloadError: it is another JSON value.
    """
    if not isinstance(payload, dict):
        raise PayloadError(f"Input parsing failed: expected a JSON object, got {type(payload).__name__}")
    return payload


def kind_of(content_type: str | None) -> str:
    """The type without its parameters, in lower case; JSON where there is none."""
    return (content_type or "application/json").split(";")[0].strip().lower()


def is_json(kind: str, body: bytes) -> bool:
    """A body of this type is read as JSON, whatever the type says."""
    return "json" in kind or (kind == FORM and body.lstrip().startswith(b"{"))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"Input parsing failed: {error}") from None


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PayloadError(f"Input parsing failed: the body is not UTF-8 text: {error}") from None


def _field(text: str) -> str:
    """The field `data` of a form, or its first one; a text that is no form as it stands."""
    fields = dict(reversed(parse_qsl(text, keep_blank_values=True))) if "=" in text else {}
    fields = {name: value for name, value in fields.items() if name not in _NOT_PROMPTS}
    return fields.get("data", next(reversed(fields.values()), text))


def _rows(text: str) -> list[Any]:
    """The cells of the column `inputs`; without such a column every row as an object."""
    rows = list(csv.DictReader(io.StringIO(text)))
    header = text.partition("\n")[0].lower()
    if not rows or not any(column in header for column in _CSV_COLUMNS):
        columns = ", ".join(_CSV_COLUMNS)
        raise PayloadError(f"Input parsing failed: a CSV needs a header with one of {columns}, and rows")
    return [row["inputs"] for row in rows] if "inputs" in rows[0] else rows


_LISTS: Mapping[str, Callable[[str], list[Any]]] = {"text/plain": lambda text: [text], "text/csv": _rows}
"""Content types that hold several prompts, or one that LMI takes for a list of one."""
