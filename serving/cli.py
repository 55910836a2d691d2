# SPDX-License-Identifier: Apache-2.0
"""The `lmi` command: from arguments to a configuration, and from there to a running server (`run.py`)."""

import json
import logging
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from handlers import resolve as handlers_of
from handlers.user_code import UserCode
from serving import demo, first_process, log
from serving.config import explain, report, vllm_command
from serving.config.addresses import PORT
from serving.config.command_line import USAGE, wants_help
from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from serving.errors import ConfigError, Problem
from serving.ledger import Ledger
from serving.starting import Starting
from serving.user_packages import UserPython, prepare
from serving.vllm_shim import install as install_shim

if TYPE_CHECKING:
    from serving.assembly import Setup

logger = logging.getLogger(__name__)
app = typer.Typer(
    help="LMI Server: AWS LMI's contract on vLLM, in one process.", no_args_is_help=True, add_completion=False
)
handler_app = typer.Typer(help="For people who write handlers.", no_args_is_help=True)
app.add_typer(handler_app, name="handler")


_VLLM_PORT = 8000
"""Where `vllm serve` listens unless it is told otherwise."""
_CONFIG_FLAGS = ("--json", "--as-vllm", "--explain-lmi", "--check-engine")
_CONFIG_USAGE = """

Of lmi config itself:
  --json                   everything as JSON
  --check-engine           have vLLM's own parser and configuration judge as well (imports vLLM)
  --as-vllm                the vllm serve command that means the same to the engine
  --from-vllm 'COMMAND'    the serving.properties that stands for a vllm serve command
  --explain-lmi            what LMI would do otherwise with the same files and variables"""


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


@app.command("reload")
def reload_command(
    url: Annotated[str, typer.Option(help="Where the server listens for management.")] = "http://127.0.0.1:8080",
    model: Annotated[str | None, typer.Option(help="The endpoint's name; default: the one the server has.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="VLLM_API_KEY", help="A key of the server's.")] = None,
) -> None:
    """Have a running server run its model.py as it is on disk now."""
    raise typer.Exit(_reload(url.rstrip("/"), model, api_key))


@app.command("install-vllm-shim")
def install_vllm_shim_command(
    directory: Annotated[Path, typer.Argument(help="Where to put it; first on the PATH of the program.", exists=True)],
) -> None:
    """Put an executable `vllm` into DIRECTORY whose `serve` is this server, for programs that start vLLM themselves."""
    print(f"{install_shim(directory)} serves with LMI Server")


@handler_app.command("test")
def handler_test_command(
    directory: Annotated[Path, typer.Argument(help="The model directory.", exists=True, file_okay=False)],
    request: Annotated[Path, typer.Option(help="File with the request's body.", exists=True, dir_okay=False)],
    header: Annotated[list[str] | None, typer.Option(help="A request header, `name: value`; can be repeated.")] = None,
) -> None:
    """Send one request to the handler in DIRECTORY, without an engine, and print the answer."""
    raise typer.Exit(_handler_test(directory, request, header or []))


def main() -> None:
    """Entry point of the command `lmi`."""
    app()


def vllm_main() -> None:
    """Entry point of the executable `vllm` that `lmi install-vllm-shim` makes."""
    if sys.argv[1:2] == ["serve"]:
        raise SystemExit(serve(sys.argv[2:], _VLLM_PORT))
    from vllm.entrypoints.cli.main import main as upstream

    upstream()


def serve(argv: Sequence[str], port: int = PORT) -> int:
    """Runs `lmi serve` with `argv` until it is told to stop, at `port` unless they say otherwise; the exit code."""
    if wants_help(argv):
        print(USAGE)
        return 0
    return first_process.run(lambda: _start(argv, port))


def _start(argv: Sequence[str], port: int) -> int:
    log.setup()
    starting, ledger = Starting(), Ledger()
    try:
        with ledger.phase("configuration"):
            config, code = resolved(argv, port)
        log.setup(is_json=config.logs_json)
        for warning in config.warnings:
            logger.warning("%s", warning)
        if differing := len(explain.differences(config)):
            logger.info("LMI would do %d things otherwise; lmi config --explain-lmi lists them", differing)
        return _serve(config, code, starting, ledger)
    except ConfigError as error:
        _print_problems(error)
        return error.exit_code
    except Exception as error:  # the last border: whatever it was, the user gets one line, and the log the rest
        logger.exception("unexpected")
        print(f"lmi: error: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def show_config(argv: Sequence[str]) -> int:
    """Runs `lmi config` with `argv`: those of `lmi serve`, and its own; returns the exit code a start would have."""
    asked = {flag for flag in _CONFIG_FLAGS if flag in argv}
    argv = [argument for argument in argv if argument not in asked]
    if argv and argv[0].startswith("--from-vllm="):
        argv = ["--from-vllm", argv[0].partition("=")[2], *argv[1:]]
    try:
        if "--from-vllm" in argv:
            print(vllm_command.from_vllm(_value_of("--from-vllm", argv)), end="")
            return 0
        if wants_help(argv):
            print(USAGE.replace("lmi serve [MODEL]", "lmi config [MODEL]", 1) + _CONFIG_USAGE)
            return 0
        config, code = resolved(argv)
        if "--check-engine" in asked:
            _check_engine(config)
    except ConfigError as error:
        if "--json" in asked:
            print(json.dumps(report.problems_as_data(error.problems), indent=2))
        else:
            _print_problems(error)
        return error.exit_code
    handler = handlers_of.described(config, code)
    if "--json" in asked:
        print(json.dumps(report.as_data(config, handler) | {"lmi": explain.differences(config)}, indent=2))
    elif "--as-vllm" in asked:
        print(vllm_command.as_vllm(config))
    elif "--explain-lmi" in asked:
        print("\n".join(f"- {text}" for text in explain.differences(config)) or "LMI would do the same.")
    else:
        print(report.as_text(config, handler))
    return 0


def _value_of(flag: str, argv: Sequence[str]) -> str:
    """The word behind a flag.

    Raises:
        ConfigError: there is none.
    """
    rest = argv[argv.index(flag) + 1 :]
    if not rest:
        raise ConfigError([Problem("USAGE", f"{flag} expects a command, as one word: {flag} 'vllm serve MODEL ...'")])
    return shlex.join(rest) if len(rest) > 1 else rest[0]


def _check_engine(config: ResolvedConfig) -> None:
    """Has vLLM's parser and its configuration judge, without loading the model.

    Raises:
        ConfigError: one of them refuses.
    """
    if not config.has_model:
        return
    os.environ.update(config.environment)
    with redirect_stdout(sys.stderr):  # where vLLM is to log
        from serving.engine.engine_args import check, namespace

        check(namespace(config.vllm_arguments))


def resolved(argv: Sequence[str], port: int = PORT, host: Host | None = None) -> tuple[ResolvedConfig, UserCode | None]:
    """The configuration of this process, its handler's part included, and the user's file.

    Args:
        argv: arguments after the command word.
        port: where to listen unless something says otherwise.
        host: another machine than this one.

    Raises:
        ConfigError: with every problem found.
    """
    host = host or Host.local(os.environ)
    config = resolve(os.environ, argv, host, demo.MODEL_DIR, handlers_of.OUTPUT_FORMATS, port)
    warnings = list(config.warnings)
    code = handlers_of.user_code(config, warnings)
    warnings += handlers_of.without_effect(config.mode, config.options, code, config.server.batch_size)
    return replace(config, warnings=warnings), code


def _print_problems(error: ConfigError) -> None:
    for problem in error.problems:
        print(f"lmi: error: {problem}", file=sys.stderr)


def _serve(config: ResolvedConfig, code: UserCode | None, starting: Starting, ledger: Ledger) -> int:
    from serving.server import bound

    values = config.vllm_arguments
    with ExitStack() as stack:
        socks = [stack.enter_context(bound(values["host"], values["port"], values.get("uds")))]
        if (other := config.management) is not None:
            where = (other.host, other.port, other.unix_path, "management_address")
            socks.append(stack.enter_context(bound(*where)))
        setup, args = set_up(config, code, ledger)
        with ledger.phase("imports"):
            import uvloop

            from serving.run import run

        return int(uvloop.run(run(setup, args, socks, starting, ledger)))


def set_up(config: ResolvedConfig, code: UserCode | None, ledger: Ledger) -> tuple["Setup", Namespace]:
    """What `serving.run` needs: the user's packages are installed, this process's variables set, vLLM's parser asked.

    Raises:
        ConfigError: packages cannot be installed, or vLLM's parser refuses.
    """
    before = dict(os.environ)
    with ledger.phase("packages"):
        python = _user_python(config, code)
    os.environ.update(config.environment)
    if "TORCHDYNAMO_DISABLE" in config.environment:
        logger.warning(
            "no C++ compiler with Python's headers found (Debian: apt install g++ python3-dev): "
            "the engine runs without compiled kernels, which is slower"
        )
    with ledger.phase("imports"):
        from serving.assembly import Setup
        from serving.engine.engine_args import namespace

        return Setup(config, code, python, before), namespace(config.vllm_arguments)


def _reload(url: str, model: str | None, api_key: str | None) -> int:
    """Asks the server; returns the exit code."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        how = f"curl --unix-socket {path} -X POST http://localhost/models/{model or 'MODEL'}/reload"
        print(f"lmi: error: lmi reload asks over HTTP; for a Unix socket: {how}", file=sys.stderr)
        return 2
    try:
        if model is None:
            with urlopen(Request(f"{url}/models", headers=headers)) as answer:
                model = json.load(answer)["models"][0]["modelName"]
        with urlopen(Request(f"{url}/models/{model}/reload", b"", headers)) as answer:
            print(json.load(answer)["status"])
        return 0
    except HTTPError as error:
        text = error.read().decode("utf-8", "replace").strip()
        print(f"lmi: error: {url} answers {error.code}: {text}", file=sys.stderr)
    except (URLError, ValueError) as error:
        print(f"lmi: error: no server at {url}: {error}", file=sys.stderr)
    return 1


def _handler_test(directory: Path, request: Path, headers: Sequence[str]) -> int:
    """One request to the handler in `directory`; returns the exit code."""
    from serving import handler_test

    log.setup()
    try:
        config, code = resolved([str(directory)])
        for warning in config.warnings:
            logger.warning("%s", warning)
        return handler_test.run(config, code, _user_python(config, code), request, headers)
    except ConfigError as error:
        _print_problems(error)
        return error.exit_code


def _user_python(config: ResolvedConfig, code: UserCode | None) -> UserPython:
    """What runs the user's code; installs what it asks for."""
    warnings: list[str] = []
    options = config.options
    python = prepare(
        config.model_dir,
        python_executable=options.python_executable,
        enable_venv=options.enable_venv,
        env={**os.environ, **options.env},
        has_worker=code is not None and code.needs_worker,
        has_formatters=code is not None and code.has_formatters,
        warnings=warnings,
    )
    for warning in warnings:
        logger.warning("%s", warning)
    sys.path += python.api_path
    return python
