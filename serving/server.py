# SPDX-License-Identifier: Apache-2.0
"""Runs uvicorn around the app until a signal or the engine's death, and says with which exit code to leave.

Called by `cli.py`. SIGTERM: `/ping` 503, accept for `shutdown_delay`, finish what is in flight within
`shutdown_timeout`, exit 0. SIGINT: the same without the delay, and out within 20 s. Engine death: exit 1.
"""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from serving.errors import ConfigError, Problem
from serving.health import EngineState, Health
from serving.loop_watch import LoopWatch

logger = logging.getLogger(__name__)

_INTERRUPT_TIMEOUT_S = 15
"""SIGINT is out within 20 s whatever `shutdown_timeout` says; this leaves 5 s for the engine's processes."""
_DEATH_CHECK_S = 0.1
_LAST_ANSWERS_S = 5.0


def bind(host: str, port: int, unix_path: str | None = None) -> socket.socket:
    """A bound socket that does not listen yet: connections are refused until the server is ready.

    Raises:
        ConfigError: the address is taken or is not this machine's.
    """
    family = socket.AF_UNIX if unix_path is not None else socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if unix_path is not None:
            _remove_stale(unix_path)
            bound.bind(unix_path)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        where, remedy = (unix_path, "--uds") if unix_path is not None else (f"{host}:{port}", "--port or --host")
        raise _cannot_listen(where, error, f"choose another with {remedy}") from None
    return bound


def _remove_stale(path: str) -> None:
    """Removes a socket file that nobody listens on any more."""
    if Path(path).is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                Path(path).unlink()


def _cannot_listen(where: str, error: Exception, remedy: str) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    return ConfigError([Problem("CONFLICT", f"cannot listen on {where}: {reason}", remedy=remedy)])


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, telling when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]):
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:
            raise _cannot_listen("the address", error, "another process listens there by now") from None
        if self.started:
            self._on_ready()


class Server:
    """One run of the server; `death_code` is its exit code when the engine died."""

    def __init__(
        self,
        app: ASGIApp,
        engine: EngineState,
        health: Health,
        delay_s: float,
        timeout_s: float,
        options: dict[str, Any],
        death_code: int = 1,
    ):
        self._death_code = death_code
        self._engine = engine
        self._health = health
        self._delay_s = delay_s
        self._timeout_s = timeout_s
        self._stopping: asyncio.Task[None] | None = None
        self._interrupted = False
        self.config = uvicorn.Config(app, server_header=False, date_header=False, lifespan="on", **options)
        self.config.load()

    async def run(self, sock: socket.socket, on_ready: Callable[[], None]) -> int:
        """Serves until told to stop; returns the process's exit code."""
        server = _Uvicorn(self.config, on_ready)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, server, self._delay_s, self._timeout_s)
        loop.add_signal_handler(signal.SIGINT, self._interrupt, server)
        watch = loop.create_task(self._exit_on_death(server))
        loop_watch = LoopWatch()
        loop_watch.start()
        try:
            await server.serve(sockets=[sock])
        finally:
            loop_watch.stop()
            watch.cancel()
            if self._stopping is not None:
                self._stopping.cancel()
        # A terminal or a supervisor may signal the engine's processes too: once told to stop, their end is no failure.
        if self._engine.is_dead and self._stopping is None:
            return self._death_code
        return 0 if server.started else 1

    def _interrupt(self, server: uvicorn.Server) -> None:
        """SIGINT is out in time even after a SIGTERM with a long timeout; a second one does not wait at all."""
        timeout_s = min(self._timeout_s, _INTERRUPT_TIMEOUT_S)
        loop = asyncio.get_running_loop()
        loop.call_later(0 if self._interrupted else timeout_s, setattr, server, "force_exit", True)
        self._interrupted = True
        self._stop(server, 0, timeout_s)

    def _stop(self, server: uvicorn.Server, delay_s: float, timeout_s: float) -> None:
        if delay_s and self._stopping is not None:
            return
        if self._stopping is not None:
            self._stopping.cancel()
        self._health.drain()
        self._stopping = asyncio.get_running_loop().create_task(self._drain(server, delay_s, timeout_s))

    async def _drain(self, server: uvicorn.Server, delay_s: float, timeout_s: float) -> None:
        logger.info("shutting down: %d requests in flight, %g s to finish", self._engine.num_in_flight, timeout_s)
        await asyncio.sleep(delay_s)
        server.config.timeout_graceful_shutdown = int(timeout_s)
        server.should_exit = True

    async def _exit_on_death(self, server: uvicorn.Server) -> None:
        """Ends the server once the engine is gone and the requests in flight had time to get their errors."""
        while not self._engine.is_dead:
            await asyncio.sleep(_DEATH_CHECK_S)
        if self._stopping is None:
            logger.critical("the engine process died; its last lines above say why. Exiting.")
        server.config.timeout_graceful_shutdown = int(_LAST_ANSWERS_S)
        server.should_exit = True
