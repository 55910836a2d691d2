# SPDX-License-Identifier: Apache-2.0
"""What routes need to know; one object on `app.state.lmi`, made by `app.py`."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request

from handlers.base import Handler
from serving.engine.base import ModelFacts
from serving.health import Health


@dataclass(frozen=True, slots=True)
class Context:
    """Collaborators of the routes.

    Attributes:
        model_name: the endpoint's name, as in `/predictions/{model_name}`.
        handler: answers inference requests.
        health: says whether the server can take them.
        tgi: answers TGI's routes, by path.
        facts: the model's, for clients that ask.
    """

    model_name: str
    handler: Handler
    health: Health
    tgi: Mapping[str, Handler]
    facts: ModelFacts


def context(request: Request) -> Context:
    """The context of the app that got this request."""
    found: Context = request.app.state.lmi
    return found
