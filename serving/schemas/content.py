# SPDX-License-Identifier: Apache-2.0
"""Body bytes and content type to a payload object. Called by the handlers, once per request."""

import json
from typing import Any

from serving.errors import PayloadError


def decode(content_type: str | None, body: bytes) -> dict[str, Any]:
    """The payload as an object.

    Args:
        content_type: the header as sent, or None. Absent means JSON; so does a form that starts with a brace, because
            that is what curl sends without a header.
        body: the raw body.

    Raises:
        PayloadError: not decodable, or a content type that is not supported.
    """
    kind = (content_type or "application/json").split(";")[0].strip().lower()
    if "json" in kind or (kind == "application/x-www-form-urlencoded" and body.lstrip().startswith(b"{")):
        return _object(body)
    if kind == "text/plain":
        return {"inputs": [_text(body)]}
    raise PayloadError(f"Input parsing failed: content type {kind!r} is not supported; send application/json")


def _object(body: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"Input parsing failed: {error}") from None
    if not isinstance(payload, dict):
        raise PayloadError(f"Input parsing failed: expected a JSON object, got {type(payload).__name__}")
    return payload


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PayloadError(f"Input parsing failed: the body is not UTF-8 text: {error}") from None
