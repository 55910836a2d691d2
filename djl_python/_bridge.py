# SPDX-License-Identifier: Apache-2.0
"""How code in a handler's process reaches the server's own engine.

The process that runs a handler calls `connect` before it loads any; `djl_python.engine` and the facade of LMI's vLLM
service use what it left here.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class Response:
    """The default handler's answer.

    Attributes:
        status: the HTTP status.
        headers: lower-case names.
        chunks: the body as it comes, cut anywhere; a single piece where the answer is not streamed.
    """

    def __init__(self, status: int, headers: dict[str, str], chunks: AsyncIterator[bytes]):
        self.status = status
        self.headers = headers
        self.chunks = chunks


class Bridge(Protocol):
    """The way to the default handler."""

    async def request(self, body: bytes, headers: dict[str, str]) -> Response:
        """Sends one request, and returns as soon as status and headers are known.

        Args:
            body: as a client would send it.
            headers: lower-case names.
        """
        ...


current: Bridge | None = None
loop: "AbstractEventLoop | None" = None
"""The loop that handlers and the bridge run on."""


def connect(bridge: Bridge | None, running_loop: "AbstractEventLoop | None") -> None:
    """Makes the engine reachable from this process; None for both takes that back."""
    global current, loop
    current, loop = bridge, running_loop


def connected() -> Bridge:
    """The bridge.

    Raises:
        RuntimeError: this process is not one that the server runs handlers in.
    """
    if current is None:
        raise RuntimeError("The server's engine is reachable only from a handler that the server runs.")
    return current


async def close(response: Response) -> None:
    """Tells the engine that nobody reads the rest of an answer."""
    aclose = getattr(response.chunks, "aclose", None)
    if aclose is not None:
        await aclose()
