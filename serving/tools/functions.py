# SPDX-License-Identifier: Apache-2.0
"""The functions that a request gives, what calls of them look like, and whether one is right."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from serving.tools import validation

_NAMES = ("name", "tool")
_ARGUMENTS = ("arguments", "parameters", "params", "args")
_BESIDE = ("id", "type")
KEYS = frozenset({*_NAMES, *_ARGUMENTS, *_BESIDE, "function"})
"""What a call is written with; an object with any other key is none."""
_MOST_CALLS = 16
"""In one forced answer; a model that knows nothing of tools would go on until its tokens are used up."""
_DATA = ("const", "enum", "default", "examples")
"""Keywords whose values are no schemas."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, whose function was given and whose arguments fit.

    Attributes:
        name: of the function.
        arguments: a JSON object, compact.
    """

    name: str
    arguments: str


class Functions:
    """The functions of one request.

    Args:
        given: name and JSON schema of the arguments, None for a function that has none.

    Raises:
        ValueError: a schema is none, or cannot be applied safely, with the function's name.
    """

    def __init__(self, given: Iterable[tuple[str, Mapping[str, Any] | None]]):
        self._schemas: dict[str, dict[str, Any]] = {}
        self._validators: dict[str, Any] = {}
        for name, parameters in given:
            try:
                self._schemas[name] = _object_schema(parameters)
                self._validators[name] = validation.validator(self._schemas[name])
            except ValueError as error:
                raise ValueError(f"the parameters of function {name!r} {error}") from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._schemas

    def schema_of(self, name: str) -> dict[str, Any]:
        """The schema of a function's arguments."""
        return self._schemas[name]

    def list_schema(self, is_parallel: bool) -> dict[str, Any]:
        """The schema of a list of calls, `[{"name": ..., "arguments": ...}]`, of at least one.

        Args:
            is_parallel: there may be several.
        """
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{number}"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for number, name in enumerate(self._schemas)
        ]
        most = _MOST_CALLS if is_parallel else 1
        moved = [_moved(schema, f"#/$defs/{number}") for number, schema in enumerate(self._schemas.values())]
        definitions = {str(number): schema for number, schema in enumerate(moved)}
        return {"type": "array", "items": {"anyOf": calls}, "minItems": 1, "maxItems": most, "$defs": definitions}

    def call_of(self, value: Any) -> Call | None:
        """The call that a value from a model's answer is, in any of the usual ways to write one; None if it is none."""
        if not isinstance(value, dict):
            return None
        if isinstance(inner := value.get("function"), dict):
            return self.call_of(inner) if set(value) <= {"function", *_BESIDE} else None
        name = _only(value, _NAMES)
        if name not in self or not set(value) <= {*_NAMES, *_ARGUMENTS, *_BESIDE}:
            return None
        return self.checked(name, _only(value, _ARGUMENTS, {}))

    def checked(self, name: str, arguments: Any) -> Call | None:
        """A call of a function that was given; None if the arguments do not fit. They may be JSON in a string."""
        try:
            if isinstance(arguments, str):
                arguments = decoded(arguments)
            if not isinstance(arguments, dict) or not validation.fits(self._validators[name], arguments):
                return None
            return Call(name, _encoded(arguments))
        except (ValueError, RecursionError):
            return None


def decoded(text: str) -> Any:
    """JSON, with line breaks and other control characters in strings, which models write.

    Raises:
        ValueError: it is none.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _encoded(arguments: dict[str, Any]) -> str:
    """Compact JSON.

    Raises:
        ValueError: a number that JSON has no word for.
    """
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
        text = json.dumps(arguments, allow_nan=False, separators=(",", ":"))
    return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER: json.JSONDecoder = json.JSONDecoder(parse_constant=_refuse, strict=False)


def _object_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """The schema of arguments, which always are an object; without parameters there are none.

    Raises:
        ValueError: it is none of an object.
    """
    if not parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    kinds = parameters.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise ValueError(f"must be an object, not {kinds}")
    return {**parameters, "type": "object"}


def _moved(schema: Any, place: str) -> Any:
    """A schema as a part of another one, at `place`: what refers to its root, or a part of it, follows."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {}
    for key, item in schema.items():
        if key == "$ref" and isinstance(item, str):
            made[key] = place + item.removeprefix("#")
        else:
            made[key] = item if key in _DATA else _moved(item, place)
    return made


def _only(value: Mapping[str, Any], keys: Sequence[str], default: Any = None) -> Any:
    """What stands under the one of `keys` that is there."""
    found = [value[key] for key in keys if key in value]
    return found[0] if len(found) == 1 else default if not found else None
