# SPDX-License-Identifier: Apache-2.0
"""What an answer is to look like: a type to vLLM's structured outputs, and the text that comes back to a value."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError


@dataclass(frozen=True, slots=True)
class Regex:
    """Answers that match this pattern as a whole."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Grammar:
    """Answers of this language, in EBNF or Lark's notation."""

    definition: str


@dataclass(frozen=True, slots=True)
class OutputType:
    """One kind of answer.

    Attributes:
        constraint: fields of vLLM's `StructuredOutputsParams`; empty for plain text.
        read: the text of a whole answer to its value; raises `ValueError` for what is none.
        may_end: a text that the engine did not end itself, but `max_tokens` for instance, can be whole.
    """

    constraint: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[str], Any] = str
    may_end: Callable[[str], bool] = lambda text: True


TEXT = OutputType()


def output_type_of(given: Any) -> OutputType:
    """What the user means by an output type.

    Args:
        given: `str`, for any text; a `Regex` or a `Grammar`; a list of texts, one of which is the answer; a JSON schema
            as a mapping; or a type that pydantic knows: a model, a dataclass, `int`, `list[Item]`, `Literal[...]`, an
            enum. None is `str`.

    Raises:
        TypeError: it is none of these.
    """
    if given is None or given is str:
        return TEXT
    if isinstance(given, OutputType):
        return given
    if isinstance(given, Regex):
        return OutputType({"regex": given.pattern}, may_end=partial(_matches, given.pattern))
    if isinstance(given, Grammar):
        return OutputType({"grammar": given.definition}, may_end=lambda text: False)
    if isinstance(given, Mapping):
        return OutputType({"json": dict(given)}, json.loads, _may_end_json)
    if isinstance(given, str | bytes):
        raise TypeError("a text as output type could be several things: wrap it in Regex(...) or Grammar(...)")
    if isinstance(given, Sequence):
        if not given or not all(isinstance(choice, str) for choice in given):
            raise TypeError("choices are a list of texts, at least one")
        choices = list(given)
        return OutputType({"choice": choices}, may_end=lambda text: text in choices)
    try:
        adapter = TypeAdapter(given)
        return OutputType({"json": adapter.json_schema()}, adapter.validate_json, _may_end_json)
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        text = " ".join(str(error).split(".")[0].split())
        raise TypeError(
            f"{given!r} is no output type: expected str, Regex, Grammar, a list of choices, a JSON schema or a type "
            f"that pydantic knows ({text})"
        ) from None


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.fullmatch(pattern, text) is not None
    except re.error:  # the engine's dialect knows more
        return False


def _may_end_json(text: str) -> bool:
    """A number could go on; everything else in JSON has an end."""
    return not text[-1:].isdigit()
