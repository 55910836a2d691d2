# SPDX-License-Identifier: Apache-2.0
"""One line in the log and one count in the metrics per HTTP request, whatever route. Put on the app by `app.py`.

Lines have ids, times and counts, never a payload. Probes and scrapers are told of in debug mode only.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import error_responses, metrics, request_record
from serving.metrics import PROBES
from serving.request_record import RequestRecord
from serving.routers.streaming import DIRECT_SEND

logger = logging.getLogger(__name__)

_FALLBACK = "x-custom-handler-fallback"
_TOOLS = "x-tool-calls-by"
"""Tells a client what reads calls of functions from its answer."""
_ON_PURPOSE = (HTTPStatus.NOT_IMPLEMENTED,)
"""Statuses that look like a failure of the server's and are none."""
_PLAIN = re.compile(r"[\w.:/%+-]*")


class RequestLog:
    """Keeps a record of each request and tells of it at its end.

    Args:
        app: what to call.
        is_on: whether lines are written; what is counted is counted anyway.
        unlogged: paths that have no line.
        count: is told the status of every answer of LMI's and TGI's routes.
        is_direct: nothing between here and the routes changes what is written, nor needs to see all of it.
    """

    def __init__(
        self,
        app: ASGIApp,
        is_on: bool = True,
        unlogged: Collection[str] = (),
        count: Callable[[int], None] | None = None,
        is_direct: bool = False,
    ):
        self._app = app
        self._is_on = is_on
        self._unlogged = frozenset(unlogged)
        self._count = count
        self._is_direct = is_direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's own contract
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = request_record.begin(scope["headers"])
        if self._is_direct:
            scope[DIRECT_SEND] = send
        is_complete = False

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                record.has_left = record.has_left or not is_complete
            elif not message.get("more_body", False):
                record.read()
            return message

        def sending(message: Message) -> Awaitable[None]:
            nonlocal is_complete
            record.written()
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                record.fallback = headers.get(_FALLBACK, "")
                if record.tools:
                    headers[_TOOLS] = record.tools
            elif not message.get("more_body", False):
                is_complete = True
            return send(message)

        try:
            await self._app(scope, receiving, sending)
        finally:
            record.end()
            self._tell(scope, record)

    def _tell(self, scope: Scope, record: RequestRecord) -> None:
        path = error_responses.route_path(scope)
        family = error_responses.family(scope)
        is_probe = path in PROBES
        is_aside = is_probe or record.is_poll
        _observe(scope, record, family, is_aside)
        if self._count is not None and family != "openai" and not is_aside and record.status not in _ON_PURPOSE:
            self._count(record.status)
        level = logging.DEBUG if is_probe else logging.INFO
        if self._is_on and path not in self._unlogged and logger.isEnabledFor(level):
            facts = _facts(scope, record, family)
            text = " ".join(f"{name}={_quoted(value)}" for name, value in facts.items())
            logger.log(level, "%s %s %d %s", scope["method"], quote(path), record.status, text, extra=facts)


def _observe(scope: Scope, record: RequestRecord, family: str, is_aside: bool) -> None:
    """Counts; probes and polls for an answer that is made elsewhere say nothing about how long answers take."""
    assert record.ended is not None
    route = getattr(scope.get("route"), "path", "none")
    metrics.REQUESTS.labels(route, error_responses.CLIENT_LEFT if record.has_left else record.status).inc()
    if not is_aside:
        metrics.REQUEST_DURATION_SECONDS.labels(family).observe(record.ended - record.began)
    if record.tools:
        metrics.TOOL_REQUESTS.labels(record.tools).inc()
    if record.overhead_s is not None:
        metrics.REQUEST_OVERHEAD_SECONDS.labels(family).observe(record.overhead_s)


def _facts(scope: Scope, record: RequestRecord, family: str) -> dict[str, Any]:
    """What a line says; what is not known of a request does not stand there."""
    assert record.ended is not None
    first = record.first_output_at - record.began if record.first_output_at is not None else None
    facts = {
        "request_id": scope.get("state", {}).get("request_id", ""),
        "family": family,
        "handler": record.handler,
        "fallback": record.fallback,
        "tools": record.tools,
        "adapter": record.adapter,
        "error": record.error,
        "client_left": record.has_left,
        "prompt_tokens": record.num_prompt_tokens,
        "tokens": record.num_tokens,
        "queue_ms": _milliseconds(record.queue_s),
        "first_output_ms": _milliseconds(first),
        "total_ms": _milliseconds(record.ended - record.began),
        "overhead_ms": _milliseconds(record.overhead_s),
    }
    return {name: value for name, value in facts.items() if value or (value == 0.0 and isinstance(value, float))}


def _milliseconds(seconds: float | None) -> float | None:
    return round(seconds * 1000, 2) if seconds is not None else None


def _quoted(value: Any) -> str:
    """A value on one line, told from its neighbours whatever a client made of it."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else ascii(text)
