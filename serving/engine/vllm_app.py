# SPDX-License-Identifier: Apache-2.0
"""vLLM's HTTP side on our app: its parser, routers, exception handlers, middlewares and app state.

This module, `vllm_engine.py` and `vllm_loras.py` are the only ones that import vLLM's internals, so an upgrade fails in
few places (`tests/unit/engine/test_vllm_symbols.py` touches each).
"""

import dataclasses
import gc
import logging
import os
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn, cast

from fastapi import FastAPI
from starlette.datastructures import State
from vllm import envs
from vllm.config import ModelConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.routers import register_api_routers
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.entrypoints.launchers.utils import server_utils
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.entrypoints.launchers.utils.ssl import SSLCertRefresher
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware
from vllm.entrypoints.serve.sagemaker.api_router import sagemaker_standards_bootstrap
from vllm.exceptions import VLLMError
from vllm.logger import configure_logging_from_args
from vllm.plugins.endpoint_plugins.interface import attach_endpoint_plugins
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.system_utils import set_ulimit

from serving.engine import vllm_tools, vllm_words

__all__ = ["attach", "build_state", "lifespan", "parse_arguments", "serve_parser", "split_arguments", "uvicorn_options"]


_YOUNG_OBJECTS = 10_000
"""More than so many new ones make Python look for cycles among them; its own number, 700, is for small programs."""


class _Parser(FlexibleArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raises instead of leaving the process."""
        raise ValueError(message)


def serve_parser() -> _Parser:
    """The parser of `vllm serve`; refuses with `ValueError`."""
    parser = _Parser(add_help=False)
    make_arg_parser(parser)
    return parser


def split_arguments() -> tuple[set[str], set[str]]:
    """Names of the front end's arguments, and of the engine's."""
    engine = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    return {action.dest for action in serve_parser()._actions} - engine, engine


def parse_arguments(tokens: Sequence[str]) -> Namespace:
    """The namespace of a command line, past vLLM's own checks; plug-ins and log settings it names are loaded.

    Raises:
        ValueError: vLLM refuses something; the text is one line.
    """
    try:
        args = serve_parser().parse_args(list(tokens))
        validate_parsed_serve_args(args)
        configure_logging_from_args(args)
        if args.tool_parser_plugin:
            ToolParserManager.import_tool_parser(args.tool_parser_plugin)
        if args.reasoning_parser_plugin:
            ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
        validate_api_server_args(args)
    except (ValueError, TypeError, KeyError, VLLMError) as error:
        raise ValueError(" ".join(str(error.args[0] if error.args else error).split())) from None
    return cast(Namespace, args)


async def build_state(client: Any, args: Namespace, tasks: tuple[str, ...], tool_fallback: bool) -> State:
    """What vLLM's routes look up on `app.state`, made around `client`.

    Args:
        client: vLLM's, or the gate in front of it.
        args: vLLM's.
        tasks: what the engine supports.
        tool_fallback: calls of functions are recognized without a parser, too.
    """
    state = State()
    if tool_fallback:
        vllm_tools.install(args, client)
    with _kept_log_levels():
        await init_app_state(client, state, args, tasks)
    if tool_fallback:
        vllm_tools.tell_of_tools(state.online_renderer)
    vllm_tools.note_modes(state)
    vllm_words.accept(state)
    # vLLM's error handler tells its server to stop when the engine is dead; ours looks for itself (`server.py`).
    state.server = SimpleNamespace(should_exit=False)
    return state


def attach(app: FastAPI, state: State, tasks: tuple[str, ...], model_config: ModelConfig | None) -> None:
    """Puts vLLM's routes, error handlers and middlewares on `app`; routes that `app` has already win.

    Args:
        app: our app, its own routers included.
        state: from `build_state`; becomes the app's, beside what is there.
        tasks: what the engine supports.
        model_config: vLLM's, which decides some routes of pooling models.
    """
    args: Namespace = state.args
    ours = list(app.router.routes)
    taken = {
        (getattr(route, "path", None), method) for route in ours for method in getattr(route, "methods", None) or ()
    }
    app.state._state.update(state._state)
    with _kept_log_levels():
        register_api_routers(args, app, tasks, model_config)
        vllm_words.attach(app, state)
        attach_endpoint_plugins(app, tasks)
        app.router.routes[:] = ours + [
            route
            for route in app.router.routes[len(ours) :]
            if not any(
                (getattr(route, "path", None), method) in taken for method in getattr(route, "methods", None) or ()
            )
        ]
        init_exception_handler(app)
        init_entrypoints_middleware(args, app, tasks)
        if any(name.startswith("CUSTOM_FASTAPI_") for name in os.environ):
            sagemaker_standards_bootstrap(app)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """As vLLM's, around the time that `app` serves."""
    # vLLM looks variables up for each token; its engine processes stop doing so in the same way, once they run.
    envs.enable_envs_cache()
    async with server_utils.lifespan(app):
        # Nearly all that a token leaves behind is free at once; looking for the rest so often finds nothing.
        gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
        yield


def fastapi_options(args: Namespace) -> dict[str, Any]:
    """vLLM's front-end arguments in FastAPI's words."""
    options: dict[str, Any] = {"root_path": (args.root_path or "").rstrip("/")}
    if args.disable_fastapi_docs:
        options |= {"openapi_url": None, "docs_url": None, "redoc_url": None}
    elif args.enable_offline_docs:
        options |= {"docs_url": None, "redoc_url": None}
    return options


def log_options(args: Namespace) -> dict[str, Any]:
    """What vLLM's front-end arguments say about uvicorn's access log, for ours, which takes its place."""
    paths = (args.disable_access_log_for_endpoints or "").split(",")
    return {
        "logs_requests": not args.disable_uvicorn_access_log,
        "unlogged_paths": [path.strip() for path in paths if path.strip()],
    }


def uvicorn_options(args: Namespace) -> dict[str, Any]:
    """vLLM's front-end arguments in uvicorn's words."""
    set_ulimit()
    options = {
        "log_level": args.uvicorn_log_level,
        "access_log": False,  # `request_log.py` writes that
        "timeout_keep_alive": envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE,
        "ssl_keyfile": args.ssl_keyfile,
        "ssl_certfile": args.ssl_certfile,
        "ssl_ca_certs": args.ssl_ca_certs,
        "ssl_cert_reqs": args.ssl_cert_reqs,
        "ssl_ciphers": args.ssl_ciphers,
        "h11_max_incomplete_event_size": args.h11_max_incomplete_event_size,
    }
    if (log_config := get_uvicorn_log_config(args)) is not None:
        options["log_config"] = log_config
    return options


def refresh_certificates(args: Namespace, ssl_context: Any) -> SSLCertRefresher | None:
    """Reloads changed TLS files where `--enable-ssl-refresh` asks for it; stop it with `.stop()`."""
    if not args.enable_ssl_refresh or ssl_context is None:
        return None
    return SSLCertRefresher(
        ssl_context=ssl_context, key_path=args.ssl_keyfile, cert_path=args.ssl_certfile, ca_path=args.ssl_ca_certs
    )


@contextmanager
def _kept_log_levels() -> Iterator[None]:
    """Importing SageMaker's standards package sets the root logger to ERROR; this puts the levels back."""
    root = logging.getLogger()
    level, handlers = root.level, [(handler, handler.level) for handler in root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        for handler, handler_level in handlers:
            handler.setLevel(handler_level)
