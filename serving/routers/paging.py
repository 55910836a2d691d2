# SPDX-License-Identifier: Apache-2.0
"""Pages of a list, as LMI's management routes cut them: `limit` and `next_page_token`, and JSON for people."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

from serving.errors import BadParameter

_PAGE = 100


def page(request: Request, key: str, entries: Sequence[Any]) -> Response:
    """One page under `key`; `nextPageToken` says where the next one begins.

    Raises:
        BadParameter: a number that is none.
    """
    limit, start = number(request, "limit", _PAGE), max(0, number(request, "next_page_token", 0))
    limit = limit if 0 <= limit <= _PAGE else _PAGE
    body: dict[str, Any] = {key: entries[start : start + limit]}
    if start + limit < len(entries):
        body = {"nextPageToken": str(start + limit), **body}
    return pretty(body)


def number(request: Request, name: str, default: int) -> int:
    """A whole number of the query.

    Raises:
        BadParameter: it is none.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        return int(text)
    except ValueError:
        raise BadParameter(f"The parameter {name} must be a whole number, not {text!r}") from None


def pretty(body: Any) -> Response:
    """JSON as LMI's management routes write it."""
    return Response(json.dumps(body, indent=2) + "\n", media_type="application/json")
