# SPDX-License-Identifier: Apache-2.0
"""The `lmi` command. `serve` is where everything is put together: configuration, engine, handler, app, server."""

import json
import logging
import os
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from handlers import resolve as handlers_of
from serving import demo, log
from serving.config import report
from serving.config.command_line import USAGE, wants_help
from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from serving.errors import ConfigError
from serving.starting import Starting

logger = logging.getLogger(__name__)
app = typer.Typer(
    help="LMI Server: AWS LMI's contract on vLLM, in one process.", no_args_is_help=True, add_completion=False
)


class _RawCommand(TyperCommand):
    """Leaves its arguments to the command: vLLM's flags are not a general parser's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return []


@app.callback()
def _commands() -> None:
    """Makes `lmi` a group even with one command."""


@app.command("serve", cls=_RawCommand, add_help_option=False)
def serve_command(ctx: typer.Context) -> None:
    """Serve a model: `lmi serve MODEL`, `lmi serve --demo`; takes every flag of `vllm serve`."""
    raise typer.Exit(serve(ctx.args))


@app.command("config", cls=_RawCommand, add_help_option=False)
def config_command(ctx: typer.Context) -> None:
    """Show what `lmi serve` with the same arguments would do, where each setting comes from, and what is wrong."""
    raise typer.Exit(show_config(ctx.args))


def main() -> None:
    """Entry point of the command `lmi`."""
    app()


def serve(argv: Sequence[str]) -> int:
    """Runs `lmi serve` with `argv` until it is told to stop; returns the exit code."""
    began = time.monotonic()
    if wants_help(argv):
        print(USAGE)
        return 0
    log.setup()
    starting = Starting()
    try:
        config = _resolved(argv)
        for warning in config.warnings:
            logger.warning("%s", warning)
        return _serve(config, starting, began)
    except ConfigError as error:
        _print_problems(error)
        return error.exit_code
    except Exception as error:  # the last border: whatever it was, the user gets one line, and the log the rest
        logger.exception("unexpected")
        print(f"lmi: error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def show_config(argv: Sequence[str]) -> int:
    """Runs `lmi config` with `argv`: those of `lmi serve`, and `--json`; returns the exit code a start would have."""
    as_json = "--json" in argv
    argv = [argument for argument in argv if argument != "--json"]
    if wants_help(argv):
        print(USAGE.replace("lmi serve [MODEL]", "lmi config [--json] [MODEL]", 1))
        return 0
    try:
        config = _resolved(argv)
    except ConfigError as error:
        if as_json:
            print(json.dumps(report.problems_as_data(error.problems), indent=2))
        else:
            _print_problems(error)
        return error.exit_code
    print(json.dumps(report.as_data(config), indent=2) if as_json else report.as_text(config))
    return 0


def _resolved(argv: Sequence[str]) -> ResolvedConfig:
    """The configuration of this process, its handler's part included."""
    host = Host.local(os.environ)
    config = resolve(os.environ, argv, host, demo.MODEL_DIR, handlers_of.OUTPUT_FORMATS)
    return replace(config, warnings=[*config.warnings, *handlers_of.without_effect(config.mode, config.options)])


def _print_problems(error: ConfigError) -> None:
    for problem in error.problems:
        print(f"lmi: error: {problem}", file=sys.stderr)


def _serve(config: ResolvedConfig, starting: Starting, began: float) -> int:
    from serving.server import bind

    values = config.vllm_arguments
    with bind(values["host"], values["port"], values.get("uds")) as sock:
        os.environ.update(config.environment)
        if "TORCHDYNAMO_DISABLE" in config.environment:
            logger.warning(
                "no C++ compiler with Python's headers found (Debian: apt install g++ python3-dev): "
                "the engine runs without compiled kernels, which is slower"
            )
        import uvloop

        from serving.engine.engine_args import namespace

        args = namespace(values)
        try:
            code: int = uvloop.run(_run(config, args, sock, starting, began))
        finally:
            if "uds" in values:
                Path(values["uds"]).unlink(missing_ok=True)
        return code


async def _run(config: ResolvedConfig, args: Namespace, sock: socket.socket, starting: Starting, began: float) -> int:
    """Engine, handler, app and server, in this order; the engine is closed whatever happens."""
    from serving.app import create_app
    from serving.engine import vllm_app
    from serving.engine.vllm_engine import VllmEngine
    from serving.health import Health
    from serving.routers.context import Context
    from serving.server import Server

    engine = VllmEngine(args, config.model_name, config.limits, config.adapters)
    try:
        with starting.within(config.limits.start_s):
            await engine.start()
        handler = handlers_of.resolve(engine, config.mode, config.options)
        await handler.start()
        health = Health(engine)
        application = create_app(
            Context(config.model_name, handler, health, handlers_of.tgi_routes(engine), engine.facts),
            config.server,
            lifespan=vllm_app.lifespan,
            api_keys=args.api_key or (),
            upstream_paths=("/invocations",) if config.options.invocations_api == "openai" else (),
            attach=partial(vllm_app.attach, state=engine.state, tasks=engine.tasks, model_config=engine.model_config),
            **vllm_app.fastapi_options(args),
        )
        options = vllm_app.uvicorn_options(args)
        server = Server(application, engine, health, config.server.shutdown_delay, args.shutdown_timeout, options)
        refresher = vllm_app.refresh_certificates(args, server.config.ssl)
        code = await server.run(sock, partial(_announce, config, engine.tasks, sock, began))
        if refresher is not None:
            refresher.stop()
        await handler.close()
        return code
    finally:
        await engine.close()


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
        return "/v1/models"
    return f"/invocations -H 'content-type: application/json' -d '{json.dumps(body)}'"


def _url(config: ResolvedConfig, host: str, port: int) -> str:
    scheme = "https" if config.vllm_arguments.get("ssl_certfile") else "http"
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}"
