# SPDX-License-Identifier: Apache-2.0
"""Runs a request for as long as its client is there, and writes the answer. Used by every inference route.

Beside work and stream runs a task that waits for the client to leave; when it does they are cancelled, which aborts the
request in the engine.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from handlers.base import Handler, InferenceRequest, InferenceResponse
from serving import error_responses
from serving.errors import ServingError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

DIRECT_SEND = "lmi.send"
"""Of a scope: what writes to the client past everything in between, for the pieces of a stream but its ends."""


async def answer(handler: Handler, request: Request) -> Response:
    """Handles `request` and returns what to send, once the first byte of the answer exists.

    Raises:
        ServingError: anything that went wrong before that byte.
    """
    inference = await read(request)
    if inference is None:
        return client_left()
    work = first_byte(handler, inference, request.scope.get(DIRECT_SEND))
    done, result = await _while_connected(work, request.receive)
    return result if done and result is not None else client_left()


async def read(request: Request) -> InferenceRequest | None:
    """The request with its whole body; None if the client left before its end."""
    try:
        body = await request.body()
    except ClientDisconnect:
        return None
    query = request.query_params.multi_items()
    return InferenceRequest(body, dict(request.headers), request.state.request_id, query)


def client_left() -> Response:
    """An answer for nobody."""
    return Response(status_code=error_responses.CLIENT_LEFT)


async def first_byte(handler: Handler, request: InferenceRequest, direct_send: Send | None = None) -> Response:
    """Handles `request` until the first byte of the answer exists.

    Args:
        handler: answers.
        request: the request.
        direct_send: writes the pieces of a stream but its ends; None for what writes those, too.

    Raises:
        ServingError: anything that went wrong before.
    """
    try:
        result = await handler.handle(request)
        if isinstance(result.body, bytes):
            return _Whole(result)
        return await _Stream.opened(result, request.request_id, direct_send)
    except Exception as error:
        raise _ours(error, request.request_id) from error


def _headers(result: InferenceResponse) -> dict[str, str]:
    """The answer's headers; the content type exactly as the format says it, without a charset of Starlette's."""
    return {**result.headers, "content-type": result.media_type} if result.media_type else dict(result.headers)


class _Whole(Response):
    """An answer that is not streamed."""

    def __init__(self, result: InferenceResponse):
        super().__init__(result.body, result.status, _headers(result))
        self._on_delivered = result.on_delivered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._on_delivered is not None:
                self._on_delivered()


class _Stream(Response):
    """An answer whose body is a generator with its first item already pulled."""

    def __init__(
        self,
        result: InferenceResponse,
        body: AsyncGenerator[bytes],
        first: bytes,
        request_id: str,
        direct_send: Send | None,
    ):
        super().__init__(None, result.status, _headers(result))
        del self.headers["content-length"]
        self._items = body
        self._first = first
        self._request_id = request_id
        self._direct_send = direct_send
        self._framing = result.framing

    @classmethod
    async def opened(cls, result: InferenceResponse, request_id: str, direct_send: Send | None) -> "_Stream":
        """Pulls the first item; what that raises is an ordinary error."""
        body = result.body
        assert not isinstance(body, bytes)
        return cls(result, body, await anext(body, b""), request_id, direct_send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _while_connected(self._write(send), receive)
        finally:
            await self._items.aclose()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        # A task of its own: else each item would wake all that was called on the way here.
        await asyncio.ensure_future(self._write_rest(self._direct_send or send))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write_rest(self, send: Send) -> None:
        try:
            async for item in self._items:
                await send({"type": "http.response.body", "body": item, "more_body": True})
        except Exception as error:
            line = error_responses.last_line(_ours(error, self._request_id), self._framing)
            await send({"type": "http.response.body", "body": line, "more_body": True})


async def _while_connected(work: Coroutine[Any, Any, _T], receive: Receive) -> tuple[bool, _T | None]:
    """Whether `work` came to its end before the client left, and its result; cancels it otherwise.

    The work runs in this task, so that its end need not wait for the event loop to come round. What it makes of being
    cancelled (vLLM's routes answer with an error) is for nobody.
    """
    task = asyncio.current_task()
    assert task is not None
    num_cancelled = task.cancelling()
    is_over = has_left = False

    def leave(_: asyncio.Future[None]) -> None:
        nonlocal has_left
        if not is_over:
            has_left = True
            task.cancel()

    left = asyncio.ensure_future(_disconnected(receive))
    left.add_done_callback(leave)
    try:
        result = await work
        if has_left:
            task.uncancel()
        return True, result
    except (asyncio.CancelledError, Exception):
        if has_left and task.uncancel() <= num_cancelled:
            return False, None
        raise
    finally:
        is_over = True
        left.cancel()


def _ours(error: Exception, request_id: str) -> ServingError:
    """`error` if it is one of ours; anything else is a bug, told to the log and not to the client."""
    if isinstance(error, ServingError):
        return error
    logger.error("request %s failed", request_id, exc_info=error)
    return ServingError(error_responses.INTERNAL)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
