# SPDX-License-Identifier: Apache-2.0
"""Puts user's code, engine, handlers and app together; knows the engine by its protocol only. Used by `run.py`.

The order of a start: the user's code is loaded and makes its start-up call; then the engine starts, at once or when the
first request needs it.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import FastAPI

from handlers import resolve as handlers_of
from handlers.adapter_backends import AdapterBackend, EngineBackend, HookBackend
from handlers.adapter_sources import AdapterSources
from handlers.adapters import AdapterRegistry
from handlers.base import Handler
from handlers.custom import CustomHandler
from handlers.on_demand import BuiltIn, OnDemand
from handlers.user_code import UserCode
from handlers.user_formatters import FormatterLoadError, UserFormatters
from serving import metrics
from serving.app import create_app
from serving.async_results import AsyncResults
from serving.config.resolve import ResolvedConfig
from serving.engine.base import Engine
from serving.errors import ConfigError, DefaultUnavailable, Problem
from serving.front import Front
from serving.health import Health
from serving.ledger import Ledger
from serving.routers import waiting
from serving.routers.context import Context
from serving.user_packages import UserPython

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launched:
    """A started engine, and what belongs to it on the app.

    Attributes:
        engine: ready for requests.
        attach: puts the engine's own routes on an app.
        lifespan: runs around the time that app serves.
    """

    engine: Engine
    attach: Callable[[FastAPI], None] | None = None
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None


Launch = Callable[[bool], Awaitable[Launched]]
"""Starts the engine; true where the server answers requests meanwhile. Raises `ConfigError`."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What was decided before anything is started.

    Attributes:
        config: the configuration.
        code: the user's file, if there is one.
        python: what runs it.
        environment: this process's variables as they were before anything changed them.
        app_options: for `create_app`.
    """

    config: ResolvedConfig
    code: UserCode | None
    python: UserPython
    environment: Mapping[str, str]
    app_options: Mapping[str, Any] = field(default_factory=dict)


class Assembly:
    """The parts of one server.

    Args:
        setup: what was decided.
        launch: starts the engine.
        ledger: is told how long the parts take to start.

    Attributes:
        health: says whether the server can take requests.
        engine: once it is started.
        custom: runs the user's code, if there is any to run.
    """

    def __init__(self, setup: Setup, launch: Launch, ledger: Ledger):
        self._setup = setup
        self._ledger = ledger
        self._config = setup.config
        self._launch = launch
        self._built_in = OnDemand(self._start_engine)
        self._formatters = UserFormatters()
        self._front: Front | None = None
        self._reloading = asyncio.Lock()
        self._adapters: AdapterRegistry | None = None
        self._results = AsyncResults(setup.config.server)
        self._app: FastAPI
        self.health = Health(self)
        self.engine: Engine | None = None
        self.custom: CustomHandler | None = None
        self._has_default = _has_default(setup)
        metrics.REQUESTS_IN_FLIGHT.set_function(lambda: self.num_in_flight)

    @property
    def is_dead(self) -> bool:
        """The engine was started and is gone."""
        return self.engine is not None and self.engine.is_dead

    @property
    def num_in_flight(self) -> int:
        """Requests that are under way."""
        generating = self.engine.num_in_flight if self.engine is not None else 0
        return max(generating, self.custom.num_in_flight if self.custom is not None else 0)

    @property
    def stalled_s(self) -> float:
        """Seconds since the engine gave anything, while requests wait for it."""
        return self.engine.stalled_s if self.engine is not None else 0.0

    async def start(self) -> Front:
        """Everything but the port; what to give to the HTTP server.

        Raises:
            ConfigError: the user's code or the engine does not start.
        """
        if not self._has_default:
            self._built_in.refuse("there is none beside this custom handler")
        self._formatters = self._load_formatters(self._setup.code)
        self.custom = await self._start_custom()
        if self.custom is not None and self.custom.is_direct:
            # As in LMI the hooks of a handler that is the entry point itself are all that is asked.
            self._adapters = self._registry(HookBackend(self.custom))
            if self.custom.has_hook("register_adapter"):
                await self._adapters.load_all(self._config.adapters, self._config.options.strict)
        if self._needs_engine_now():
            await self._launched()
        elif self.engine is None:
            if self._has_default:
                logger.info("the engine starts with the first request that needs it")
            self._app = self._create_app(None, handlers_of.late(self._built_in))
        self._front = Front(self._app)
        return self._front

    async def reload(self) -> None:
        """Runs the user's file as it is now, once that works; what runs stays where it does not.

        Raises:
            ConfigError: the file does not work, or cannot be taken up without a new start.
        """
        async with self._reloading:
            code = handlers_of.user_code(self._config, [])
            if code is None:
                raise ConfigError([Problem("NOT_FOUND", "there is no model.py")])
            if self.custom is None and code.needs_worker:
                text = f"{code.path.name} has a handler, and the server started without one"
                raise ConfigError([Problem("UNSUPPORTED", text, remedy="restart the server")])
            if code.syntax_error:
                raise ConfigError([Problem("VALIDATION", code.syntax_error)])
            formatters = await asyncio.to_thread(self._load_formatters, code)
            if self.custom is not None:
                await self.custom.reload(code)
            self._formatters.replace_base(formatters)
            logger.info("%s is reloaded", code.path)

    async def close(self) -> None:
        """Ends the user's code, and what the app holds; the engine has its own owner."""
        if self._front is not None:
            await self._front.close()
        if self.custom is not None:
            await self.custom.close()

    def _load_formatters(self, code: UserCode | None) -> UserFormatters:
        """The user's formatters, in this process."""
        fallback = self._config.options.custom_handler_fallback
        if code is None or not code.has_formatters or code.syntax_error:
            return UserFormatters()  # what a file that cannot be read means is the custom handler's to say
        if self._config.model_dir is not None:
            # Formatters open files beside them by relative path, as the worker's code does.
            os.chdir(self._config.model_dir)
        if code.has_handler:
            logger.warning("%s runs twice: formatters in this process, %s in the worker; "
                           "they share no variables", code.path, self._config.options.handler)  # fmt: skip
        try:
            return UserFormatters.load(code, self._config.model_dir)
        except FormatterLoadError as error:
            logger.error("%s does not load", code.path, exc_info=error.__cause__)
            if code.has_handler and fallback == "on":
                return UserFormatters()
            raise ConfigError([Problem("VALIDATION", f"{code.path.name} does not load: {error}")]) from None

    async def _start_custom(self) -> CustomHandler | None:
        code = self._setup.code
        if code is None or not code.is_custom:
            return None
        default: Handler | None = handlers_of.late(self._built_in).default if self._has_default else None
        custom = handlers_of.custom(
            code, self._config, self._setup.python, self._setup.environment, default, self._on_death
        )
        self.custom = custom
        with self._ledger.phase("handler"):
            await custom.start()
        return custom

    def _on_death(self) -> None:
        metrics.CUSTOM_HANDLER_DEATHS.inc()
        custom = self.custom
        if custom is not None and not self._has_default and custom.num_deaths > self._config.server.retry_threshold:
            self.health.fail()

    def _needs_engine_now(self) -> bool:
        if self.custom is None:
            return True
        if not self._has_default:
            return False
        return self._config.options.default_engine == "eager" or self.custom.needs_default_now

    async def _launched(self) -> None:
        """Starts the engine before the port opens, unless the user's code has done so: a failure is the start's."""
        try:
            await self._built_in.get()
        except DefaultUnavailable as error:
            raise self._built_in.cause or ConfigError([Problem("ENGINE", str(error))]) from None

    async def _start_engine(self) -> BuiltIn:
        try:
            return await self._started_engine()
        except Exception as error:
            if self._front is not None:
                logger.error("the default handler is not available: %s", error)
            raise

    async def _started_engine(self) -> BuiltIn:
        is_late = self._front is not None or self.custom is not None
        launched = await self._launch(is_late)
        self.engine = launched.engine
        hooks = self.custom if self.custom is not None and not self.custom.is_direct else None
        adapters = self._registry(EngineBackend(launched.engine, self._formatters, hooks))
        with self._ledger.phase("adapters"):
            await adapters.load_all(self._config.adapters, self._config.options.strict)
        if self._adapters is None:
            self._adapters = adapters
        built = handlers_of.built_in(launched.engine, self._config.mode, self._config.options, self._formatters)
        self._app = self._create_app(launched, built)
        if self._front is not None:
            await self._front.switch(self._app)
        return built

    def _registry(self, backend: AdapterBackend) -> AdapterRegistry:
        sources = AdapterSources(self._config.adapter_roots, self._config.downloads)
        return AdapterRegistry(backend, sources, self._config.allows_adapter_code)

    async def _started_adapters(self) -> AdapterRegistry:
        """The adapters; where the engine keeps them, it is started for that.

        Raises:
            DefaultUnavailable: it does not start.
        """
        if self._adapters is None:
            await self._built_in.get()
        assert self._adapters is not None
        return self._adapters

    def _create_app(self, launched: Launched | None, built: BuiltIn) -> FastAPI:
        config = self._config
        handler = built.default if self.custom is None else self.custom
        facts = launched.engine.facts if launched is not None else None
        attach = launched.attach if launched is not None else self._attach_waiting()
        return create_app(
            Context(
                config.model_name,
                handler,
                self.health,
                built.tgi,
                facts,
                handler_name=config.mode.name if self.custom is None else "custom",
                model_url=f"file:{config.model_dir}/" if config.model_dir is not None else str(config.options.model_id),
                model_version=config.model_version,
                settings=config.server,
                has_devices=config.has_devices,
                requests=self,
                limits=config.limits,
                results=self._results,
                custom=self.custom,
                adapters=self._started_adapters if self._config.options.enable_lora else None,
                reload=self.reload,
            ),
            config.server,
            lifespan=launched.lifespan if launched is not None else None,
            attach=attach,
            **self._setup.app_options,
        )

    def _attach_waiting(self) -> Callable[[FastAPI], None]:
        return partial(waiting.attach, begin=self._built_in.begin, reason=lambda: self._built_in.failure)


def _has_default(setup: Setup) -> bool:
    """There is a default handler, or can be one; without a custom handler there always is."""
    code, config = setup.code, setup.config
    if code is None or not code.is_custom:
        return True
    return config.has_model and config.options.default_engine != "off" and not code.is_script
