# SPDX-License-Identifier: Apache-2.0
"""Runs one server with vLLM's engine: assembles it, opens the port, says that it is ready. Called by `cli.py`."""

import asyncio
import importlib
import json
import socket
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.assembly import Assembly, Launched, Setup
from serving.config.resolve import ResolvedConfig
from serving.engine import vllm_app
from serving.server import Server
from serving.starting import Starting

if TYPE_CHECKING:
    from serving.engine.vllm_engine import VllmEngine


async def run(setup: Setup, args: Namespace, sock: socket.socket, starting: Starting, began: float) -> int:
    """Serves until told to stop; returns the exit code. Whatever was started is ended.

    Args:
        setup: what was decided.
        args: vLLM's namespace of it.
        sock: bound, and not listening yet.
        starting: watches the time until the server is ready.
        began: when the command began, by `time.monotonic`.

    Raises:
        ConfigError: the engine or the user's code does not start.
    """
    config = setup.config
    options = {
        "api_keys": args.api_key or (),
        "upstream_paths": ("/invocations",) if config.options.invocations_api == "openai" else (),
        **vllm_app.fastapi_options(args),
    }
    launcher = _Launcher(config, args, starting)
    assembly = Assembly(replace(setup, app_options=options), launcher.launch)
    try:
        front = await assembly.start()
        server = Server(
            front,
            assembly,
            assembly.health,
            config.server.shutdown_delay,
            args.shutdown_timeout,
            vllm_app.uvicorn_options(args),
        )
        refresher = vllm_app.refresh_certificates(args, server.config.ssl)
        tasks = assembly.engine.tasks if assembly.engine is not None else ("generate",) if config.has_model else ()
        code = await server.run(sock, partial(_announce, config, tasks, sock, began))
        if refresher is not None:
            refresher.stop()
        return code
    finally:
        await assembly.close()
        await launcher.close()


class _Launcher:
    """Starts vLLM's engine once, and ends it."""

    def __init__(self, config: ResolvedConfig, args: Namespace, starting: Starting):
        self._config = config
        self._args = args
        self._starting = starting
        self._engine: VllmEngine | None = None

    async def launch(self, adapters: Mapping[str, Path], is_late: bool) -> Launched:
        """As `Launch`; beside running requests, what would block them is done on another thread."""
        config, args = self._config, self._args
        if is_late:
            await asyncio.to_thread(importlib.import_module, "serving.engine.vllm_engine")
        from serving.engine.vllm_engine import VllmEngine

        engine = self._engine = VllmEngine(args, config.model_name, config.limits, adapters)
        if is_late:
            await engine.start(beside_requests=True)
        else:
            with self._starting.within(config.limits.start_s):
                await engine.start()
        attach = partial(vllm_app.attach, state=engine.state, tasks=engine.tasks, model_config=engine.model_config)
        return Launched(engine, attach, vllm_app.lifespan)

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()


def _announce(config: ResolvedConfig, tasks: Sequence[str], sock: socket.socket, began: float) -> None:
    """Says that the server is ready, with a command that shows it."""
    address = sock.getsockname()
    where = f"--unix-socket {address} http://localhost" if isinstance(address, str) else _url(config, *address[:2])
    key = " -H 'authorization: Bearer YOUR_KEY'" if config.vllm_arguments.get("api_key") else ""
    print(
        f"lmi: model {config.model_name} is ready after {time.monotonic() - began:.1f} s. Try:\n"
        f"curl -s {where}{_example(config, tasks)}{key}",
        flush=True,
    )


def _example(config: ResolvedConfig, tasks: Sequence[str]) -> str:
    """Path and body of a request that this server can answer, for curl."""
    body: dict[str, Any] = {"inputs": "What is LoRA?", "parameters": {"max_new_tokens": 40}}
    if config.options.invocations_api == "openai":
        body = {"prompt": "What is LoRA?", "max_tokens": 40}
    if "generate" not in tasks:
        body = {"inputs": "What is LoRA?"} if "embed" in tasks else {}
    if not body:
        return "/v1/models" if tasks else f"/models/{config.model_name}"
    return f"/invocations -H 'content-type: application/json' -d '{json.dumps(body)}'"


def _url(config: ResolvedConfig, host: str, port: int) -> str:
    scheme = "https" if config.vllm_arguments.get("ssl_certfile") else "http"
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}"
