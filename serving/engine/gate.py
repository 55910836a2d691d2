# SPDX-License-Identifier: Apache-2.0
"""The proxy around vLLM's engine client that every route goes through, `/v1/*` included.

vLLM's own routes and ours hold this object instead of the client. It counts what is in flight; whatever must hold for
every request, such as admission and adapter checks, belongs here and nowhere else.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any


class EngineGate:
    """An engine client that counts; every other attribute is the client's own."""

    def __init__(self, client: Any):
        self._client = client
        self.num_in_flight = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        """As the client's; in flight from the first item asked for to the last one, or to the close."""
        return self._counted(self._client.generate(*args, **kwargs))

    def encode(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        """As the client's; counted like `generate`."""
        return self._counted(self._client.encode(*args, **kwargs))

    async def _counted(self, outputs: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
        self.num_in_flight += 1
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        finally:
            self.num_in_flight -= 1
