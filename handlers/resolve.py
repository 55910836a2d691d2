# SPDX-License-Identifier: Apache-2.0
"""Chooses the handler once, at start, and says in one line which one and why."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from handlers.base import Handler, InferenceRequest, InferenceResponse
from handlers.custom import CustomHandler
from handlers.default import DefaultHandler
from handlers.embedding import EmbeddingHandler
from handlers.on_demand import BuiltIn, OnDemand, OnDemandHandler
from handlers.rolling_batch import RollingBatchHandler
from handlers.tgi import TgiHandler
from handlers.user_code import UserCode, find
from handlers.user_formatters import UserFormatters
from handlers.worker.batches import Batches
from handlers.worker.process import WorkerSpec
from handlers.worker.protocol import Start
from handlers.worker.supervisor import Supervisor
from serving.config.mode import Mode
from serving.config.options import LmiOptions
from serving.config.options import options as options_table
from serving.config.resolve import ResolvedConfig
from serving.engine.base import Engine
from serving.errors import DefaultUnavailable
from serving.formatters import older_chat
from serving.formatters.registry import NAMES
from serving.schemas.output import Defaults
from serving.sessions import Sessions
from serving.user_packages import UserPython

logger = logging.getLogger(__name__)

_NUM_THREADS = 16
"""Plain functions that run at the same time in async mode; in LMI's other mode it is one."""

OUTPUT_FORMATS = (*NAMES, *older_chat.MEDIA_TYPES)
"""What `option.output_formatter` may be."""


def without_effect(mode: Mode, options: LmiOptions, code: UserCode | None = None, batch_size: int = 1) -> list[str]:
    """A warning for each option that means nothing in this mode, or to the user's code."""
    warnings = []
    has_handler = code is not None and code.needs_worker
    if options.async_mode is False and options.rolling_batch in (None, "disable") and not has_handler:
        warnings.append("option.async_mode=false has no effect: rolling_batch and entryPoint choose the mode")
    if options.bedrock_compat and mode.name != "rolling_batch":
        warnings.append("option.bedrock_compat has no effect: it belongs to rolling batch (option.rolling_batch=vllm)")
    if options.output_formatter in older_chat.MEDIA_TYPES and mode.name != "rolling_batch":
        warnings.append(
            f"output_formatter={options.output_formatter} has no effect: chats in it belong to rolling batch"
        )
    if options.lmi_default_greedy and mode.name != "async":
        warnings.append("option.lmi_default_greedy has no effect: it belongs to async mode")
    if mode.name == "embedding" and (options.output_formatter or options.tgi_compat):
        warnings.append("output_formatter and tgi_compat have no effect: this model embeds texts")
    if not has_handler and batch_size > 1:
        warnings.append("batch_size has no effect: the engine batches by itself; it is for a handler in model.py")
    if has_handler and options.invocations_api == "openai":
        warnings.append("option.invocations_api=openai has no effect: the custom handler answers /invocations")
    if mode.name != "embedding" and not options.normalize:
        warnings.append("option.normalize has no effect: it belongs to a task that embeds texts")
    return warnings


def resolve(engine: Engine, mode: Mode, options: LmiOptions, formatters: UserFormatters | None = None) -> Handler:
    """The built-in handler for LMI's routes."""
    if mode.name == "async" and "generate" not in engine.tasks and "embed" in engine.tasks:
        mode = Mode("embedding", "the model embeds texts")
    logger.info("default handler: %s, because %s", mode.name, mode.reason)
    if mode.name == "embedding":
        return EmbeddingHandler(engine, formatters)
    defaults = Defaults(
        mode=mode.name,
        output_formatter=options.output_formatter,
        tgi_compat=options.tgi_compat,
        greedy=options.lmi_default_greedy,
        formats=NAMES,
    )
    if mode.name == "rolling_batch":
        return RollingBatchHandler(engine, defaults, options.enable_lora, options.bedrock_compat, formatters)
    return DefaultHandler(engine, defaults, formatters, _sessions(options))


def _sessions(options: LmiOptions) -> Sessions:
    if not options.enable_stateful_sessions:
        return Sessions(None)
    path = {"sessions_path": options.sessions_path} if options.sessions_path else {}
    return Sessions({**path, "sessions_expiration": str(options.sessions_expiration)})


def built_in(engine: Engine, mode: Mode, options: LmiOptions, formatters: UserFormatters | None = None) -> BuiltIn:
    """The handlers on a started engine; those for TGI's routes are the same in every mode."""
    tgi = {
        "/": TgiHandler(engine, stream="body"),
        "/generate": TgiHandler(engine, stream=False),
        "/generate_stream": TgiHandler(engine, stream=True),
    }
    return BuiltIn(resolve(engine, mode, options, formatters), tgi)


def late(built: OnDemand) -> BuiltIn:
    """The same handlers, each waiting for the engine that its first request starts."""
    paths = ("/", "/generate", "/generate_stream")
    tgi = {path: OnDemandHandler(built, partial(_tgi, path=path)) for path in paths}
    return BuiltIn(OnDemandHandler(built, lambda there: there.default), tgi)


def _tgi(there: BuiltIn, path: str) -> Handler:
    return there.tgi[path]


def user_code(config: ResolvedConfig, warnings: list[str]) -> UserCode | None:
    """The user's file that goes with the model, if there is one; `warnings` is added to.

    Raises:
        ConfigError: the entry point names something that is not there (`NOT_FOUND`).
    """
    options = config.options
    code = find(config.model_dir, options.entry_point, options.handler, warnings)
    is_batching = code is not None and code.needs_worker and options.async_mode is False
    if config.server.batch_size > 1 and not is_batching:
        warnings.append("batch_size has no effect: it belongs to a custom handler with async_mode=false")
    return code


def described(config: ResolvedConfig, code: UserCode | None) -> str:
    """Who answers requests, in one line."""
    default = f"the default handler ({config.mode.name})"
    if code is None or not (code.is_custom or code.has_formatters):
        return default
    if code.syntax_error:
        return f"{code.path}, which cannot be read: {code.syntax_error}"
    formatters = f"formatters of {code.path} around {default}"
    if not code.needs_worker:
        return formatters
    if code.is_script:
        return f"model_fn and predict_fn of {code.path} in a process of its own"
    worker = f"{config.options.handler} of {code.path} in a process of its own"
    return f"{worker}, then {formatters if code.has_formatters else default}"


def custom(
    code: UserCode,
    config: ResolvedConfig,
    python: UserPython,
    environment: Mapping[str, str],
    default: Handler | None,
    on_death: Callable[[], None],
) -> CustomHandler:
    """The handler that runs the user's code.

    Args:
        code: the user's file.
        config: the server's configuration.
        python: what runs it.
        environment: the variables it sees: those of this process before anything here changed them.
        default: answers where the user's code leaves a request to it, or fails; None if there is none.
        on_death: told of each unexpected end of the worker.
    """
    options = config.options
    directory = config.model_dir or code.path.parent
    properties = _properties(config, directory)
    start = Start(
        file=str(code.path),
        module=code.module,
        directory=str(directory),
        path=list(python.path),
        handler=options.handler,
        is_script=code.is_script,
        options=properties,
        num_threads=1 if options.async_mode is False else _NUM_THREADS,
        is_strict=options.handler_strict_types,
    )
    spec = WorkerSpec(start, python.executable, {**environment, **config.worker_environment})

    async def infer(request: InferenceRequest) -> InferenceResponse:
        if default is None:
            raise DefaultUnavailable("there is no default handler here")
        return await default.handle(request)

    waits = config.limits
    at_start = {**properties, "handler": options.handler}
    supervisor = Supervisor(spec, at_start, infer, on_death, waits.start_s, waits.first_output_s)
    logger.info("handler: %s of %s in a process of its own; %s", options.handler, code.path, _after(default, options))
    size, delay_ms, limits = config.server.batch_size, config.server.max_batch_delay, config.limits
    batches = None
    if size > 1 and options.async_mode is False:
        batches = Batches(supervisor, size, delay_ms / 1000)
    return CustomHandler(
        code,
        supervisor,
        default,
        options.custom_handler_fallback,
        limits,
        config.model_name,
        batches,
    )


def _after(default: Handler | None, options: LmiOptions) -> str:
    if default is None:
        return "no default handler"
    return f"the default one after it (custom_handler_fallback={options.custom_handler_fallback})"


def _properties(config: ResolvedConfig, directory: Path) -> dict[str, str]:
    """The model's options in LMI's names, as every call of the user's code may look them up."""
    rows = options_table()
    given = {
        rows[name].name if name in rows else name: entry.setting.text
        for name, entry in config.effective.items()
        if name != "env"
    }
    values = config.vllm_arguments
    return {
        "model_id": str(config.options.model_id),
        **given,
        "model_dir": str(directory),
        "device_id": "0" if config.has_devices else "-1",
        "cluster_size": "1",
        "tensor_parallel_degree": str(values.get("tensor_parallel_size", 1)),
    }
