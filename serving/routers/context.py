# SPDX-License-Identifier: Apache-2.0
"""What routes need to know; one object on `app.state.lmi`, made by `app.py`."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from fastapi import Request

from handlers.adapters import AdapterRegistry
from handlers.base import CUSTOM_ATTRIBUTES, Handler, custom_attributes
from handlers.custom import CustomHandler
from serving.async_results import AsyncResults
from serving.config.limits import Limits
from serving.config.options import ServerSettings
from serving.engine.base import ModelFacts
from serving.health import EngineState, Health


@dataclass(frozen=True, slots=True)
class Context:
    """Collaborators of the routes.

    Attributes:
        model_name: the endpoint's name, as in `/predictions/{model_name}`.
        handler: answers inference requests.
        health: says whether the server can take them.
        tgi: answers TGI's routes, by path.
        facts: the model's, for clients that ask; None while its engine is not started.
        handler_name: what the log calls `handler`.
        model_url: where the model is.
        model_version: the one that was given with its name; empty for none.
        settings: the server's own.
        has_devices: the model runs on GPUs.
        requests: how many are under way.
        limits: how many may be; None for any number.
        results: the answers that clients fetch later.
        custom: runs the user's code; None where there is none.
        adapters: gives the LoRA adapters; None where LoRA is off.
        reload: runs the user's file as it is now; raises `ConfigError` where that does not work.
    """

    model_name: str
    handler: Handler
    health: Health
    tgi: Mapping[str, Handler]
    facts: ModelFacts | None
    handler_name: str = ""
    model_url: str = ""
    model_version: str = ""
    settings: ServerSettings = field(default_factory=lambda: ServerSettings.model_validate({}))
    has_devices: bool = False
    requests: EngineState | None = None
    limits: Limits | None = None
    results: AsyncResults = field(default_factory=lambda: AsyncResults(ServerSettings.model_validate({})))
    custom: CustomHandler | None = None
    adapters: Callable[[], Awaitable[AdapterRegistry]] | None = None
    reload: Callable[[], Awaitable[None]] | None = None

    def serves(self, model: str, version: str = "") -> bool:
        """It is the model that is served, and its version if one is given."""
        return model == self.model_name and version in ("", self.model_version)


def attributes(request: Request) -> dict[str, str]:
    """SageMaker's attributes, by lower-case names: each stands for a header."""
    pairs = custom_attributes(request.headers.get(CUSTOM_ATTRIBUTES, ""))
    return {name.lower(): text for name, text in pairs.items()}


def context(request: Request) -> Context:
    """The context of the app that got this request."""
    found: Context = request.app.state.lmi
    return found
