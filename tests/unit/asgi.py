# SPDX-License-Identifier: Apache-2.0
"""Requests on an ASGI app, message by message: what an HTTP client library hides. Used on the scripted engine alone."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

TIMEOUT_S = 5


class Detached:
    """An app that is left alone once its answer is complete, as a server leaves it; what it does then goes on."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._calls: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        complete = asyncio.Event()

        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                complete.set()

        call = asyncio.ensure_future(self._app(scope, receive, watched))
        self._calls.add(call)
        call.add_done_callback(lambda _: complete.set())
        await complete.wait()
        if call.done():
            self._calls.remove(call)
            call.result()

    async def finished(self) -> None:
        """Waits until the app is done with everything."""
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.gather(*self._calls)


class Exchange:
    """Plays a client: sends `body` piece by piece, stays until `leave`, and keeps what the app sends.

    With `is_whole` false the client stops before its body ends.

    Attributes:
        sent: the app's messages.
        num_received: how many messages the app asked for and got.
        flowing: cleared, the client reads nothing more, and the app's next `send` waits.
    """

    def __init__(
        self,
        app: ASGIApp,
        path: str = "/invocations",
        headers: dict[str, str] | None = None,
        body: Sequence[bytes] = (),
        is_whole: bool = True,
    ):
        self.sent: list[Message] = []
        self.num_received = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "server": ("test", 80),
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        self._app = app
        self._pieces = list(body) or [b""]
        self._is_whole = is_whole
        self._left = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> "Exchange":
        """Plays it to its end."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._app(self.scope, self._receive, self._send)
        return self

    def leave(self) -> None:
        """The client closes the connection."""
        self._left.set()

    async def until_sent(self, count: int) -> None:
        """Waits until the app has sent this many messages."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.sent) < count:
                self._changed.clear()
                await self._changed.wait()

    @property
    def status(self) -> int:
        """Of the answer."""
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def bodies(self) -> list[bytes]:
        """The body messages' bytes, one item per message."""
        return [message["body"] for message in self.sent[1:]]

    @property
    def is_complete(self) -> bool:
        """One start, then bodies of which the last alone says that there is no more."""
        types = [message["type"] for message in self.sent]
        more = [message.get("more_body", False) for message in self.sent[1:]]
        return types == ["http.response.start"] + ["http.response.body"] * len(more) and more == [
            *([True] * (len(more) - 1)),
            False,
        ]

    async def _receive(self) -> Message:
        if self._pieces:
            self.num_received += 1
            return {
                "type": "http.request",
                "body": self._pieces.pop(0),
                "more_body": bool(self._pieces) or not self._is_whole,
            }
        await self._left.wait()
        self.num_received += 1
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.flowing.wait()
        self.sent.append(message)
        self._changed.set()


def invocation(app: ASGIApp, stream: bool = True, **parameters: Any) -> Exchange:
    """A request in LMI's words."""
    body = json.dumps({"inputs": "hello world", "parameters": parameters, "stream": stream}).encode()
    return Exchange(app, headers={"content-type": "application/json", "x-request-id": "id-1"}, body=[body])
