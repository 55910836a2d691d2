# SPDX-License-Identifier: Apache-2.0
"""The decorators that mark functions of a `model.py` for the server.

A mark is an attribute of the function with the value True, so a decorator of the user's own that sets it works as well.
Where several functions carry the same mark, the first in alphabetical order of their names counts.
"""

from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def input_formatter(func: _Function) -> _Function:
    """Marks the function that turns a decoded body into the payload to generate from."""
    return _marked(func, "is_input_formatter")


def output_formatter(func: _Function) -> _Function:
    """Marks the function that turns the engine's answer, or each chunk of it, into the body to send."""
    return _marked(func, "is_output_formatter")


def init_handler(func: _Function) -> _Function:
    """Marks the function that loads a model of the user's own."""
    return _marked(func, "is_init_handler")


def prediction_handler(func: _Function) -> _Function:
    """Marks the function that predicts with a model of the user's own."""
    return _marked(func, "is_prediction_handler")


def _marked(func: _Function, mark: str) -> _Function:
    setattr(func, mark, True)
    return func
