# SPDX-License-Identifier: Apache-2.0
"""Two listeners on one app: what comes in by which, and what is there.

`run.py` marks requests, and only where `management_address` is another one; `app.py` puts `Split` on the app, behind
ids and keys, so that these hold for both.
"""

from collections.abc import Iterable
from enum import Enum

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import error_responses
from serving.errors import MethodNotAllowed, RouteNotFound, ServingError

_KEY = "lmi.listener"


class Listener(Enum):
    """What a request can come in by."""

    INFERENCE = "inference"
    MANAGEMENT = "management"


class Marked:
    """An app that is told by which listener each request came in."""

    def __init__(self, app: ASGIApp, listener: Listener):
        self._app = app
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's own contract
        scope[_KEY] = self._listener
        await self._app(scope, receive, send)


class Split:
    """Answers what is not there by the listener that a request came in by; without a mark everything is.

    Args:
        app: has all routes.
        management: routes that are there by `Listener.MANAGEMENT` only.
        both: routes that are there by either; every other route is there by `Listener.INFERENCE` only.
        inference: of those, the ones whose paths also fit one of `management`, which they are not.
    """

    def __init__(
        self, app: ASGIApp, management: Iterable[BaseRoute], both: Iterable[BaseRoute], inference: Iterable[BaseRoute]
    ):
        self._app = app
        self._inference = list(inference)
        self._management = list(management)
        self._managing = [*self._management, *both]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's own contract
        if (error := self._refusal(scope)) is None:
            await self._app(scope, receive, send)
        else:
            await error_responses.response(error, scope)(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServingError | None:
        listener = scope.get(_KEY)
        if listener is not None and _match(self._inference, scope) is not Match.NONE:
            return None if listener is Listener.INFERENCE else RouteNotFound()
        if listener is Listener.INFERENCE:
            return None if _match(self._management, scope) is Match.NONE else RouteNotFound()
        if listener is Listener.MANAGEMENT:
            match = _match(self._managing, scope)
            if match is Match.NONE:
                return RouteNotFound()
            # Whether a page of another origin may ask is the business of who answers such questions.
            return None if match is Match.FULL or scope.get("method") == "OPTIONS" else MethodNotAllowed()
        return None


def _match(routes: Iterable[BaseRoute], scope: Scope) -> Match:
    """The best that one of `routes` has for this path and method."""
    return max((route.matches(scope)[0] for route in routes), key=lambda match: match.value)
