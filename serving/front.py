# SPDX-License-Identifier: Apache-2.0
"""The callable that uvicorn holds: whichever app answers now.

Beside a custom handler the engine may start late, and the app with vLLM's routes takes over then.
"""

from contextlib import AsyncExitStack

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send


class Front:
    """Forwards to one app, and from a moment on to another."""

    def __init__(self, app: FastAPI):
        self._first = self._app = app
        self._lifespans = AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's own contract
        app = self._first if scope["type"] == "lifespan" else self._app
        await app(scope, receive, send)

    async def switch(self, app: FastAPI) -> None:
        """From now on `app` answers; its lifespan begins."""
        await self._lifespans.enter_async_context(app.router.lifespan_context(app))
        self._app = app

    async def close(self) -> None:
        """Ends the lifespan of an app that was switched to."""
        await self._lifespans.aclose()
