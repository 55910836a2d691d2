# SPDX-License-Identifier: Apache-2.0
"""LMI's asynchronous results over HTTP: a request that is answered with a token, and polls for what there is by now.

Used by `invocations.py`. What works on a request and writes its answer is `streaming.py`'s, as for any other; what it
writes goes to the store (`serving/async_results.py`) instead of the socket.
"""

import asyncio
import re
from collections.abc import Sequence

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from handlers.base import CUSTOM_ATTRIBUTES, Handler, InferenceRequest
from serving import error_responses, overload, request_record
from serving.async_results import AsyncResults
from serving.errors import BadParameter, ServingError
from serving.routers import streaming
from serving.routers.context import Context, attributes, context

_SYNCHRONOUS = "x-synchronous"
_STARTING_TOKEN = "x-starting-token"
_MAX_ITEMS = "x-max-items"
_NEXT_TOKEN = "x-next-token"
_ID_LENGTH = 36
_PAGE_BYTES = 4 * 1024 * 1024
"""More than that comes in several pages, whatever the client asked for."""
_COUNT = re.compile(r"[0-9]{1,18}")
"""A number of items, in few enough digits for any purpose."""


def is_submission(request: Request) -> bool:
    """The answer is to be fetched later."""
    synchronous = _said(request, _SYNCHRONOUS)
    return synchronous is not None and synchronous.strip().lower() != "true"


def is_poll(request: Request) -> bool:
    """An answer is fetched that an earlier request asked for."""
    return _said(request, _STARTING_TOKEN) is not None


async def submit(handler: Handler, request: Request) -> Response:
    """Returns the token at once; the work begins when that is sent.

    The work belongs to this call of the app: whoever ends the server waits for it, and cancels it, as for any other.

    Raises:
        EngineOverloaded: there is no room in the queue, or among the results.
    """
    known = context(request)
    _check_room(known)
    inference = await streaming.read(request)
    if inference is None:
        return streaming.client_left()
    return _Submitted(handler, inference, known.results)


def page(request: Request) -> Response:
    """What there is of an answer from a token on: 202 while that is nothing; no further token at its end.

    Raises:
        BadParameter: there is no such token, or the number of items is none.
    """
    request_record.note(is_poll=True)
    token, most = _said(request, _STARTING_TOKEN) or "", _max_items(request)
    result = context(request).results.get(token[:_ID_LENGTH])
    if result is None:
        raise BadParameter(f"Invalid {_STARTING_TOKEN}: {token}")
    begin = _offset(token, len(result.pieces))
    end = _end(result.pieces, begin, most)
    is_last = result.is_complete and end == len(result.pieces)
    if begin == end and not is_last:
        return Response(status_code=202, headers=_token_headers(token))
    response = Response(b"".join(result.pieces[begin:end]), result.status)
    response.raw_headers += [pair for pair in result.headers if pair[0].lower() != b"content-length"]
    if not is_last:
        response.headers.update(_token_headers(f"{result.token}{end}"))
    return response


def _end(pieces: Sequence[bytes], begin: int, most: int | None) -> int:
    """Where a page that begins there ends: after `most` items, or what is much to hand out at once."""
    limit = len(pieces) if most is None else min(begin + most, len(pieces))
    end, num_bytes = begin, 0
    while end < limit and (end == begin or num_bytes + len(pieces[end]) <= _PAGE_BYTES):
        num_bytes += len(pieces[end])
        end += 1
    return end


class _Submitted(Response):
    """The reply to a submission; the work on it comes after."""

    def __init__(self, handler: Handler, request: InferenceRequest, results: AsyncResults):
        self._handler = handler
        self._request = request
        self._results = results
        self._result = results.create()
        super().__init__(headers=_token_headers(self._result.token))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
            await self._work(scope)
        finally:
            request_record.note(status=self._result.status)
            self._results.close(self._result)

    async def _work(self, scope: Scope) -> None:
        """Runs the request to its end, whether its client is there or not, and keeps what would have been sent."""
        try:
            response = await streaming.first_byte(self._handler, self._request)
            await response(scope, _stays, self._keep)
        except ServingError as error:
            await error_responses.response(error, scope)(scope, _stays, self._keep)

    async def _keep(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._result.status, self._result.headers = message["status"], message["headers"]
            return
        if message["body"]:
            self._results.append(self._result, message["body"])
        self._result.is_complete = not message.get("more_body", False)


async def _stays() -> Message:
    """What is received from a client that never leaves."""
    message: Message = await asyncio.get_running_loop().create_future()
    return message


def _check_room(known: Context) -> None:
    """Refuses what the queue has no room for before a token is given; whatever comes later is an answer to be fetched.

    Raises:
        EngineOverloaded: in the words that a request without token gets.
    """
    if known.limits is None or known.requests is None:
        return
    if known.requests.num_in_flight >= known.limits.num_in_flight:
        raise overload.refused(known.model_name)


def _said(request: Request, name: str) -> str | None:
    """A header, or SageMaker's attribute of that name."""
    if (text := request.headers.get(name)) is not None:
        return text
    return attributes(request).get(name)


def _offset(token: str, count: int) -> int:
    """How many of the answer's `count` items the client has, which its token says after the id."""
    text = token[_ID_LENGTH:] or "0"
    if not _COUNT.fullmatch(text) or int(text) > count:
        raise BadParameter(f"Invalid {_STARTING_TOKEN}: {token}; {text} is not the number of an item")
    return int(text)


def _max_items(request: Request) -> int | None:
    text = _said(request, _MAX_ITEMS)
    if text is None:
        return None
    if not _COUNT.fullmatch(text) or int(text) == 0:
        raise BadParameter(f"Invalid {_MAX_ITEMS}: {text}; expected a number from 1")
    return int(text)


def _token_headers(token: str) -> dict[str, str]:
    """Twice the same: SageMaker lets only its own header through."""
    return {_NEXT_TOKEN: token, CUSTOM_ATTRIBUTES: f"{_NEXT_TOKEN}={token}"}
