# SPDX-License-Identifier: Apache-2.0
"""The built-in handlers on an engine that starts when the first request needs it. Used beside a custom handler."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from handlers.base import Handler, InferenceRequest, InferenceResponse
from serving import request_record
from serving.errors import ConfigError, DefaultUnavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The handlers of one started engine.

    Attributes:
        default: for LMI's routes.
        tgi: for TGI's routes, by path.
    """

    default: Handler
    tgi: Mapping[str, Handler]


class OnDemand:
    """Starts the engine once; a start that failed is remembered, not tried again.

    Args:
        start: starts it; raises `ConfigError`.

    Attributes:
        failure: why it did not start; empty before, and if it did.
        cause: the same as it was raised, where that was foreseen.
    """

    def __init__(self, start: Callable[[], Awaitable[BuiltIn]]):
        self._start = start
        self._task: asyncio.Task[BuiltIn] | None = None
        self.failure = ""
        self.cause: ConfigError | None = None

    def begin(self) -> None:
        """Starts it in the background, unless that was done before."""
        if self._task is None and not self.failure:
            self._task = asyncio.get_running_loop().create_task(self._started())
            # Nobody may wait for it; `failure` says how it ended.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def refuse(self, reason: str) -> None:
        """It is never started."""
        self.failure = reason

    async def get(self) -> BuiltIn:
        """The handlers, once they are there. A caller that gives up does not stop the start.

        Raises:
            DefaultUnavailable: the engine did not start.
        """
        self.begin()
        if self._task is None:
            raise self._unavailable()
        return await asyncio.shield(self._task)

    async def _started(self) -> BuiltIn:
        try:
            return await self._start()
        except ConfigError as error:
            self.cause = error
            self.failure = str(error)
        except Exception as error:
            logger.exception("the default handler's engine did not start")
            self.failure = f"{type(error).__name__}: {error}"
        raise self._unavailable()

    def _unavailable(self) -> DefaultUnavailable:
        return DefaultUnavailable(f"the default handler is not available: {self.failure}")


class OnDemandHandler:
    """One of the built-in handlers, started by its first request."""

    def __init__(self, built_in: OnDemand, choose: Callable[[BuiltIn], Handler]):
        self._built_in = built_in
        self._choose = choose

    async def start(self) -> None:
        """Waits until the engine is there."""
        await self._built_in.get()

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """As the chosen handler.

        Raises:
            DefaultUnavailable: the engine did not start.
        """
        built_in = await self._built_in.get()
        request_record.restart()
        return await self._choose(built_in).handle(request)

    async def close(self) -> None:
        """Nothing to do: the engine has its own owner."""
