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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import uvicorn
from starlette.types import ASGIApp

from serving import forks
from serving.errors import ConfigError, Problem
from serving.health import EngineState, Health
from serving.loop_watch import LoopWatch

logger = logging.getLogger(__name__)

_INTERRUPT_TIMEOUT_S = 15
"""SIGINT is out within 20 s whatever `shutdown_timeout` says; this leaves 5 s for the engine's processes."""
_DEATH_CHECK_S = 0.1
_LAST_ANSWERS_S = 5.0


@contextmanager
def bound(host: str, port: int, unix_path: str | None = None, remedy: str = "") -> Iterator[socket.socket]:
    """As `bind`, for the time of the block; a Unix socket's file is gone afterwards."""
    with bind(host, port, unix_path, remedy) as sock:
        try:
            yield sock
        finally:
            if unix_path is not None:
                Path(unix_path).unlink(missing_ok=True)


def bind(host: str, port: int, unix_path: str | None = None, remedy: str = "") -> socket.socket:
    """A bound socket that does not listen yet: connections are refused until the server is ready.

    Args:
        host: a name or a number.
        port: 0 for any that is free.
        unix_path: a path instead of both.
        remedy: where to choose another one.

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
        where, flags = (unix_path, "--uds") if unix_path is not None else (f"{host}:{port}", "--port or --host")
        raise _cannot_listen(where, error, f"choose another with {remedy or flags}") from None
    forks.keep(bound)
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
    """uvicorn without its signal handlers, telling when it listens.

    The first socket is for `config`, each further one for one of `further`: own app and own TLS, one drain for all.
    """

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], further: Sequence[uvicorn.Config] = ()):
        super().__init__(config)
        self._on_ready = on_ready
        self._further = further

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets and sockets[:1])
            for config, sock in zip(self._further, (sockets or [])[1:], strict=True):
                self.servers += await self._listening(config, sock)
        except OSError as error:
            for server in getattr(self, "servers", ()):
                server.close()
            raise _cannot_listen("the address", error, "another process listens there by now") from None
        if self.started:
            self._on_ready()

    async def _listening(self, config: uvicorn.Config, sock: socket.socket) -> list[asyncio.base_events.Server]:
        """Has another listener add to what this one knows of connections and requests."""
        other = uvicorn.Server(config)
        other.server_state = self.server_state
        other.lifespan = config.lifespan_class(config)
        await other.startup([sock])
        return other.servers


class Server:
    """One run of the server.

    Args:
        app: answers.
        engine: its death ends the run.
        health: is told of the end.
        delay_s: from SIGTERM until no more connections are taken.
        timeout_s: for what is in flight then.
        options: uvicorn's.
        death_code: exit code when the engine died.
        further: app and options of each further listener.

    Attributes:
        configs: uvicorn's, one for each listener.
    """

    def __init__(
        self,
        app: ASGIApp,
        engine: EngineState,
        health: Health,
        delay_s: float,
        timeout_s: float,
        options: dict[str, Any],
        death_code: int = 1,
        further: Sequence[tuple[ASGIApp, dict[str, Any]]] = (),
    ):
        self._death_code = death_code
        self._engine = engine
        self._health = health
        self._delay_s = delay_s
        self._timeout_s = timeout_s
        self._stopping: asyncio.Task[None] | None = None
        self._interrupted = False
        self.configs = [_config(app, "on", options), *(_config(one, "off", its) for one, its in further)]

    async def run(self, sock: socket.socket, on_ready: Callable[[], None], *further: socket.socket) -> int:
        """Serves until told to stop, on the first listener's socket and the further ones'; returns the exit code."""
        server = _Uvicorn(self.configs[0], on_ready, self.configs[1:])
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, server, self._delay_s, self._timeout_s)
        loop.add_signal_handler(signal.SIGINT, self._interrupt, server)
        watch = loop.create_task(self._exit_on_death(server))
        loop_watch = LoopWatch()
        loop_watch.start()
        try:
            await server.serve(sockets=[sock, *further])
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


def _config(app: ASGIApp, lifespan: Literal["on", "off"], options: dict[str, Any]) -> uvicorn.Config:
    config = uvicorn.Config(app, server_header=False, date_header=False, lifespan=lifespan, **options)
    config.load()
    return config
