# SPDX-License-Identifier: Apache-2.0
"""Runs one server with vLLM's engine: assembles it, opens the port, says that it is ready. Called by `cli.py`.

`ray_app.py` has it assembled, too, and leaves the port to Ray.
"""

import asyncio
import importlib
import json
import logging
import os
import socket
import threading
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from starlette.types import ASGIApp

from serving import downloads
from serving.assembly import Assembly, Launched, Setup
from serving.config.resolve import ResolvedConfig
from serving.engine import vllm_app
from serving.errors import ConfigError, Problem
from serving.front import Front
from serving.ledger import Ledger
from serving.listeners import Listener, Marked
from serving.server import Server
from serving.starting import Starting

if TYPE_CHECKING:
    from serving.engine.vllm_engine import VllmEngine

logger = logging.getLogger(__name__)

_END_CHECK_S = 0.2
_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
"""Set by the configuration unless the user did."""
_KILLED = 137
"""LMI's exit code under `SERVING_FAIL_FAST`: that of a process that SIGKILL ended."""


async def run(setup: Setup, args: Namespace, socks: Sequence[socket.socket], starting: Starting, ledger: Ledger) -> int:
    """Serves until told to stop; returns the exit code. Whatever was started is ended.

    Args:
        setup: what was decided.
        args: vLLM's namespace of it.
        socks: bound, and not listening yet: the one for inference, and the one for management if there is one.
        starting: watches the time until the server is ready.
        ledger: of the start so far.

    Raises:
        ConfigError: the engine or the user's code does not start.
    """
    config = setup.config
    async with _port_file(config.port_file), assembled(setup, args, starting, ledger) as (assembly, front):
        (app, options), *further = _listeners(front, config, vllm_app.uvicorn_options(args))
        server = Server(
            app,
            assembly,
            assembly.health,
            config.server.shutdown_delay,
            args.shutdown_timeout,
            options,
            _KILLED if config.server.fail_fast else 1,
            further,
        )
        refreshers = [vllm_app.refresh_certificates(args, one.ssl) for one in server.configs]
        tasks = assembly.engine.tasks if assembly.engine is not None else ("generate",) if config.has_model else ()
        code = await server.run(socks[0], partial(_announce, config, tasks, socks, ledger), *socks[1:])
        for refresher in refreshers:
            if refresher is not None:
                refresher.stop()
        return code


@asynccontextmanager
async def _port_file(path: Path | None) -> AsyncIterator[None]:
    """The file with the port is gone after the block, whatever happened in it."""
    try:
        yield
    finally:
        if path is not None:
            path.unlink(missing_ok=True)


@asynccontextmanager
async def assembled(
    setup: Setup, args: Namespace, starting: Starting, ledger: Ledger
) -> AsyncIterator[tuple[Assembly, Front]]:
    """A started server without a port, for the time of the block; the arguments are those of `run`.

    Yields:
        Its parts, and the ASGI app.

    Raises:
        ConfigError: the engine or the user's code does not start.
    """
    options = {
        "api_keys": args.api_key or (),
        "upstream_paths": ("/invocations",) if _is_upstreams(setup) else (),
        **vllm_app.log_options(args),
        **vllm_app.fastapi_options(args),
    }
    launcher = _Launcher(setup.config, args, starting, ledger, _may_fork(setup, args))
    assembly = Assembly(replace(setup, app_options=options), launcher.launch, ledger)
    try:
        yield assembly, await assembly.start()
    finally:
        await assembly.close()
        await launcher.close()


def _listeners(front: ASGIApp, config: ResolvedConfig, options: dict[str, Any]) -> list[tuple[ASGIApp, dict[str, Any]]]:
    """App and uvicorn's options of each listener; without TLS the certificate is not told."""
    plain = {name: value for name, value in options.items() if not name.startswith("ssl_")}
    own = options if config.is_tls else plain
    if config.management is None:
        return [(front, own)]
    other = options if config.management.is_tls else plain
    return [(Marked(front, Listener.INFERENCE), own), (Marked(front, Listener.MANAGEMENT), other)]


def _is_upstreams(setup: Setup) -> bool:
    """`/invocations` is left to vLLM; a custom handler keeps it."""
    has_handler = setup.code is not None and setup.code.needs_worker
    return setup.config.options.invocations_api == "openai" and not has_handler


def _may_fork(setup: Setup, args: Namespace) -> bool:
    """The engine's process may be a fork of this one (docs/decisions/0017).

    Not where the user's own code runs here and may have started threads, where a tracer sends from here, where vLLM
    binds the process by starting it, where it was said how processes start, or beside another program's main thread.
    """
    return (
        not (setup.code is not None and setup.code.has_formatters)
        and not args.otlp_traces_endpoint
        and not args.numa_bind
        and _METHOD in setup.config.environment
        and threading.current_thread() is threading.main_thread()
    )


def _check_model(args: Namespace) -> None:
    """Refuses a Hub id that cannot be had, before vLLM is imported for it.

    Raises:
        ConfigError: the Hub does not have it for us.
    """
    if (
        os.path.isdir(args.model)
        or args.hf_config_path
        or os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true")
    ):
        return
    try:
        downloads.check_model(args.model, args.revision, args.hf_token)
    except downloads.DownloadFailed as error:
        raise ConfigError([Problem("NOT_FOUND", f"the model {error}")]) from None


class _Launcher:
    """Starts vLLM's engine once, and ends it."""

    def __init__(
        self, config: ResolvedConfig, args: Namespace, starting: Starting, ledger: Ledger, may_fork: bool = False
    ):
        self._config = config
        self._may_fork = may_fork
        self._ledger = ledger
        self._args = args
        self._starting = starting
        self._engine: VllmEngine | None = None
        self._late: asyncio.Future[None] | None = None

    async def launch(self, is_late: bool) -> Launched:
        """As `Launch`; beside running requests, what would block them is done on another thread."""
        config, args = self._config, self._args
        await asyncio.to_thread(_check_model, args)
        with self._ledger.phase("imports"):
            if is_late:
                await asyncio.to_thread(importlib.import_module, "serving.engine.vllm_engine")
            from serving.engine.vllm_engine import VllmEngine

        fallback = config.options.tool_fallback
        engine = self._engine = VllmEngine(args, config.model_name, config.limits, self._ledger, fallback)
        try:
            if is_late:
                await self._start_late(engine)
            else:
                with self._starting.within(config.limits.start_s):
                    await engine.start(may_fork=self._may_fork)
        except BaseException:
            await engine.close()
            raise
        attach = partial(vllm_app.attach, state=engine.state, tasks=engine.tasks, model_config=engine.model_config)
        return Launched(engine, attach, vllm_app.lifespan)

    async def _start_late(self, engine: "VllmEngine") -> None:
        """Loads on another thread, which nothing can cancel; to end it, the engine's processes are ended."""
        limit_s = self._config.limits.start_s
        self._late = asyncio.ensure_future(engine.start(beside_requests=True))
        done, _ = await asyncio.wait((self._late,), timeout=limit_s)
        if not done:
            await self._end_late_start()
            text = f"the model is not loaded after {limit_s:g} s"
            raise ConfigError([Problem("ENGINE", text, remedy="raise option.model_loading_timeout")])
        await self._late

    async def _end_late_start(self) -> None:
        while self._late is not None and not self._late.done():
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess, ProcessLookupError):
                    if os.getsid(process.pid) == os.getsid(0):  # a handler's worker has a session of its own
                        process.kill()
            await asyncio.wait((self._late,), timeout=_END_CHECK_S)

    async def close(self) -> None:
        await self._end_late_start()
        if self._engine is not None:
            await self._engine.close()


def _announce(config: ResolvedConfig, tasks: Sequence[str], socks: Sequence[socket.socket], ledger: Ledger) -> None:
    """Says that the server is ready and where, with a command that shows it."""
    where = _for_curl(socks[0], config.is_tls)
    management = ""
    if config.management is not None:
        management = f", management at {_for_curl(socks[1], config.management.is_tls)}"
    key = " -H 'authorization: Bearer YOUR_KEY'" if config.vllm_arguments.get("api_key") else ""
    logger.info("where the start's time went: %s", ledger.close())
    if config.port_file is not None:
        _write_port(config.port_file, socks[0].getsockname()[1])
    print(
        f"lmi: model {config.model_name} is ready after {ledger.total_s:.1f} s{management}. Try:\n"
        f"curl -s {where}{_example(config, tasks)}{key}",
        flush=True,
    )


def _write_port(path: Path, port: int) -> None:
    """In one step, so that nobody reads half of it."""
    written = path.with_name(f".{path.name}.{os.getpid()}")
    written.write_text(f"{port}\n", encoding="ascii")
    written.replace(path)


def _example(config: ResolvedConfig, tasks: Sequence[str]) -> str:
    """Path and body of a request that this server can answer, for curl."""
    body: dict[str, Any] = {"inputs": "What is LoRA?", "parameters": {"max_new_tokens": 40}}
    if config.options.invocations_api == "openai":
        body = {"prompt": "What is LoRA?", "max_tokens": 40}
    if "generate" not in tasks:
        body = {"inputs": "What is LoRA?"} if "embed" in tasks else {}
    if not body:
        return "/v1/models" if tasks else "/ping"
    return f"/invocations -H 'content-type: application/json' -d '{json.dumps(body)}'"


def _for_curl(sock: socket.socket, is_tls: bool) -> str:
    """What curl is told to reach a listener."""
    scheme, address = "https" if is_tls else "http", sock.getsockname()
    if isinstance(address, str):
        return f"--unix-socket {address} {scheme}://localhost"
    host, port = address[:2]
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}"
