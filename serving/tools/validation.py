# SPDX-License-Identifier: Apache-2.0
"""JSON schemas that clients send: checked, and applied without asking the network and within bounded time.

`jsonschema` does the work. What a client could make run for ever, patterns and references that multiply, has a deadline
here.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any

import jsonschema
import regex
from jsonschema import FormatChecker
from jsonschema.protocols import Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

_TIME_S = 0.1
_DEPTH = 64
_deadline: ContextVar[float] = ContextVar("deadline", default=0.0)


def validator(schema: Mapping[str, Any]) -> Validator:
    """What `fits` asks, of the draft that the schema says, else the latest.

    Raises:
        ValueError: it is no JSON schema, or has what could not be applied safely.
    """
    for depth, key, value in _walk(schema):
        if depth > _DEPTH:
            raise ValueError(f"are nested more than {_DEPTH} deep")
        if key == "$ref" and isinstance(value, str) and not value.startswith("#"):
            raise ValueError(f"refer to {value!r}; references may lead to other parts of them only")
        if key == "unevaluatedProperties":
            raise ValueError("have unevaluatedProperties, which is not supported")
    kind = _bounded(jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator))
    try:
        kind.check_schema(schema, format_checker=FormatChecker(formats=()))
    except (jsonschema.SchemaError, RecursionError) as error:
        raise ValueError(f"are no JSON schema: {getattr(error, 'message', error)}") from None
    made: Validator = kind(schema, registry=Registry())
    return made


def fits(judge: Validator, value: Any) -> bool:
    """The value is what the schema says; not if that cannot be said, or takes too long."""
    token = _deadline.set(time.monotonic() + _TIME_S)
    try:
        return bool(judge.is_valid(value))
    except (Unresolvable, RecursionError, TimeoutError, re.error, regex.error):
        return False
    finally:
        _deadline.reset(token)


def _walk(schema: Any) -> Iterator[tuple[int, str, Any]]:
    """Depth, key and value of everything in a schema; a list's items have no key."""
    waiting: list[tuple[int, str, Any]] = [(0, "", schema)]
    while waiting:
        depth, key, value = waiting.pop()
        yield depth, key, value
        if depth <= _DEPTH and isinstance(value, Mapping):
            waiting += [(depth + 1, str(name), item) for name, item in value.items()]
        elif depth <= _DEPTH and isinstance(value, list):
            waiting += [(depth + 1, "", item) for item in value]


def _remaining_s() -> float:
    """Raises `TimeoutError` when there is none."""
    remaining_s = _deadline.get() - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s


def _matches(pattern: str, text: str) -> bool:
    return regex.search(pattern, text, timeout=_remaining_s()) is not None


def _pattern(judge: Validator, pattern: str, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    if isinstance(value, str) and not _matches(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    judge: Validator, patterns: Mapping[str, Any], value: Any, schema: Mapping[str, Any]
) -> Iterator[Any]:
    for name, item in value.items() if isinstance(value, dict) else ():
        for pattern, inner in patterns.items():
            if _matches(pattern, name):
                yield from judge.descend(item, inner)


def _additional_properties(judge: Validator, inner: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, item in value.items() if isinstance(value, dict) else ():
        if name not in known and not any(_matches(pattern, name) for pattern in patterns):
            yield from judge.descend(item, inner)


@cache
def _bounded(kind: Any) -> Any:
    """The same draft, with limits."""
    upstream = kind.VALIDATORS["$ref"]

    def reference(judge: Validator, ref: str, value: Any, schema: Mapping[str, Any]) -> Any:
        _remaining_s()
        return upstream(judge, ref, value, schema)

    return jsonschema.validators.extend(
        kind,
        {
            "$ref": reference,
            "pattern": _pattern,
            "patternProperties": _pattern_properties,
            "additionalProperties": _additional_properties,
        },
    )
