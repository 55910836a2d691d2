# SPDX-License-Identifier: Apache-2.0
"""Runs uvicorn around the app until a signal or the engine's death, and says with which exit code to leave.

Called by `cli.py`. SIGTERM: `/ping` 503, accept for `shutdown_delay`, finish what is in flight within
`shutdown_timeout`, exit 0. SIGINT: the same without the delay, and out within 20 s. Engine death: exit 1.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from serving.engine.base import Engine
from serving.errors import ConfigError, Problem
from serving.health import Health

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
    where = unix_path or f"{host}:{port}"
    try:
        if unix_path is not None:
            unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            unix.bind(unix_path)
            return unix
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        # Held but not listening, the address could still be taken over by a listener with SO_REUSEADDR.
        with socket.socket(bound.family, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.5)
            if port and probe.connect_ex((host if host not in ("", "0.0.0.0") else "127.0.0.1", port)) == 0:
                raise OSError(98, "Address already in use")
        return bound
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        problem = Problem(
            "CONFLICT", f"cannot listen on {where}: {reason}", remedy="choose another with --port or --host"
        )
        raise ConfigError([problem]) from None


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, telling when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]):
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


class Server:
    """One run of the server."""

    def __init__(
        self, app: FastAPI, engine: Engine, health: Health, delay_s: float, timeout_s: float, options: dict[str, Any]
    ):
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
        try:
            await server.serve(sockets=[sock])
        finally:
            watch.cancel()
            if self._stopping is not None:
                self._stopping.cancel()
        # Ctrl-C reaches the engine's processes too, so after it their end is no failure.
        return 1 if not server.started or (self._engine.is_dead and not self._interrupted) else 0

    def _interrupt(self, server: uvicorn.Server) -> None:
        self._interrupted = True
        self._stop(server, 0, min(self._timeout_s, _INTERRUPT_TIMEOUT_S))

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
        if not self._interrupted:
            logger.critical("the engine process died; its last lines above say why. Exiting.")
        server.config.timeout_graceful_shutdown = int(_LAST_ANSWERS_S)
        server.should_exit = True
