# SPDX-License-Identifier: Apache-2.0
"""Pure ASGI middlewares for every route: request ids and LMI's response headers, the body limit, API keys.

Put on the app by `app.py`. They see one message per write and build nothing per token, no coroutine either: what they
call for a message hands on what `send` gives to await.
"""

import asyncio
import hashlib
import hmac
import logging
import uuid
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import error_responses
from serving.errors import PayloadTooLarge
from serving.metrics import PROBES

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_LONGEST_ID = 256
_DISCARD_S = 10.0
_TRY_AGAIN = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_RETRY_AFTER_S = "1"
_LMI_HEADERS = {
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


class RequestHeaders:
    """Gives each request an id, the client's where it sent one, and each answer the headers of its family.

    A refusal for load says when to try again, on every route. A failure that nobody foresaw is an answer, too, where
    none has begun.

    Args:
        app: what to call.
        id_header: may have the client's id, which is kept if it is printable ASCII and not too long.
    """

    def __init__(self, app: ASGIApp, id_header: str = REQUEST_ID):
        self._app = app
        self._id_header = id_header.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's own contract
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get(self._id_header, "")
        request_id = told if _is_id(told) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        extra = {} if error_responses.family(scope) == "openai" else _LMI_HEADERS
        has_begun = False

        def with_headers(message: Message) -> Awaitable[None]:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                headers.setdefault(REQUEST_ID, request_id)
                if message["status"] in _TRY_AGAIN:
                    headers.setdefault("retry-after", _RETRY_AFTER_S)
                for name, value in extra.items():
                    headers.setdefault(name, value)
            return send(message)

        try:
            await self._app(scope, receive, with_headers)
        except Exception as error:
            if has_begun:
                raise
            logger.exception("request %s failed", request_id)
            answer = await error_responses.unexpected(error, scope)
            await answer(scope, receive, with_headers)


def _is_id(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_ID and text.isascii() and text.isprintable()


class ApiKeys:
    """Lets a request pass that brings one of `keys`; health and metrics are open, so are CORS preflights."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]):
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's own contract
        if (
            scope["type"] not in ("http", "websocket")
            or _is_preflight(scope)
            or error_responses.route_path(scope) in PROBES
            or self._opens(Headers(scope=scope).get("authorization", ""))
        ):
            await self._app(scope, receive, send)
        else:
            await error_responses.unauthorized(scope)(scope, receive, send)

    def _opens(self, header: str) -> bool:
        scheme, _, key = header.partition(" ")
        digest = hashlib.sha256(key.strip().encode()).digest()
        # Every key is compared, each in constant time, so that the time tells nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _is_preflight(scope: Scope) -> bool:
    """A browser asks whether a page of another origin may ask; it sends no key with that."""
    headers = Headers(scope=scope)
    return scope.get("method") == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


class BodyLimit:
    """Refuses bodies above `limit` bytes: before reading where the length is told, else while reading."""

    def __init__(self, app: ASGIApp, limit: int):
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's own contract
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length")
        if told is None:
            await self._counted(scope, receive, send)
        elif told.isdigit() and int(told) > self._limit:
            if "100-continue" not in Headers(scope=scope).get("expect", ""):
                await _discard(receive)
            await error_responses.response(PayloadTooLarge(), scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A chunked body: whatever the route answers once the limit is passed, the client gets the refusal."""
        num_read = 0

        async def counted() -> Message:
            nonlocal num_read
            message = await receive()
            num_read += len(message.get("body", b""))
            if num_read > self._limit:
                raise PayloadTooLarge
            return message

        async def refused(message: Message) -> None:
            if num_read <= self._limit:
                await send(message)
            elif message["type"] == "http.response.start":
                await _discard(receive)
                await error_responses.response(PayloadTooLarge(), scope)(scope, receive, send)

        await self._app(scope, counted, refused)


async def _discard(receive: Receive) -> None:
    """Reads on for a while: closing on a client that still sends would reset the connection before it reads 413."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            while (await receive()).get("more_body", False):
                pass
