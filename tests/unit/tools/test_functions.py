# SPDX-License-Identifier: Apache-2.0
"""Which values are calls of the functions that were given, and the schema that demands one."""

import json
import time
from typing import Any

import jsonschema
import pytest

from serving.tools.functions import Call, Functions

pytestmark = pytest.mark.pure
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTIONS = Functions([("get_weather", CITY), ("now", None)])
ROME = Call("get_weather", '{"city":"Rome"}')


DEEP: list[Any] = [{}]
for _ in range(100):
    DEEP = [{"allOf": DEEP}]


@pytest.mark.parametrize(
    ("value", "call"),
    [
        ({"name": "get_weather", "arguments": {"city": "Rome"}}, ROME),
        ({"name": "get_weather", "parameters": {"city": "Rome"}}, ROME),
        ({"tool": "get_weather", "params": {"city": "Rome"}}, ROME),
        ({"name": "get_weather", "args": '{"city": "Rome"}'}, ROME),
        ({"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}, ROME),
        ({"name": "now", "arguments": {}}, Call("now", "{}")),
        ({"name": "now"}, Call("now", "{}")),
        ({"name": "get_weather", "arguments": {"city": "Zürich"}}, Call("get_weather", '{"city":"Zürich"}')),
        ({"name": "get_weather", "arguments": {}}, None),
        ({"name": "get_weather", "arguments": {"city": 5}}, None),
        ({"name": "get_weather", "arguments": None}, None),
        ({"name": "get_weather", "arguments": "Rome"}, None),
        ({"name": "get_weather", "arguments": "[]"}, None),
        ({"name": "now", "arguments": {"zone": "UTC"}}, None),
        ({"name": "none", "arguments": {}}, None),
        ({"name": ["now"]}, None),
        ({"name": "now", "tool": "get_weather"}, None),
        ({"name": "now", "description": "the time", "parameters": {}}, None),
        ({"function": {"name": "now"}, "text": "x"}, None),
        (["now"], None),
        (None, None),
    ],
)
def test_value(value: Any, call: Call | None) -> None:
    assert FUNCTIONS.call_of(value) == call


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"type": "objec"}, "must be an object, not objec"),
        ({"type": "string"}, "must be an object, not string"),
        ({"properties": 3}, "no JSON schema"),
        ({"unevaluatedProperties": False}, "not supported"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:1/x"}}}, "other parts of them only"),
        ({"allOf": DEEP}, "nested more than 64 deep"),
    ],
)
def test_bad_schema(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"the parameters of function 'f' .*{text}"):
        Functions([("f", parameters)])


@pytest.mark.parametrize(
    "parameters", [{"$ref": "#/$defs/gone"}, {"patternProperties": {"x": {"$ref": "#/$defs/none"}}}]
)
def test_schema_that_nothing_fits(parameters: dict[str, Any]) -> None:
    """It is seen when a call comes, which then is text."""
    assert Functions([("f", parameters)]).checked("f", {"x": "x"}) is None


@pytest.mark.parametrize(
    ("parameters", "arguments", "is_right"),
    [
        ({"properties": {"a": {"pattern": "^x+$"}}}, {"a": "xx"}, True),
        ({"properties": {"a": {"pattern": "^x+$"}}}, {"a": "xy"}, False),
        ({"properties": {"a": {"pattern": "^(x+)+$"}}}, {"a": "x" * 60 + "y"}, False),
        ({"patternProperties": {"^s_": {"type": "string"}}, "additionalProperties": False}, {"s_a": "x"}, True),
        ({"patternProperties": {"^s_": {"type": "string"}}, "additionalProperties": False}, {"s_a": 1}, False),
        ({"patternProperties": {"^s_": {"type": "string"}}, "additionalProperties": False}, {"a": "x"}, False),
        ({"additionalProperties": {"type": "integer"}}, {"a": 1}, True),
        ({"additionalProperties": {"type": "integer"}}, {"a": "x"}, False),
        ({"patternProperties": {"^(x|xx)+$": False}}, {"x" * 60 + "y": 1}, False),
    ],
)
def test_patterns_have_a_time_limit(parameters: dict[str, Any], arguments: dict[str, Any], is_right: bool) -> None:
    began = time.monotonic()
    assert (Functions([("f", parameters)]).checked("f", arguments) is not None) == is_right
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(("is_parallel", "count"), [(True, 2), (False, 1)])
def test_list_schema(is_parallel: bool, count: int) -> None:
    schema = FUNCTIONS.list_schema(is_parallel)
    call = {"name": "get_weather", "arguments": {"city": "Rome"}}
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid([call] * count)
    assert not validator.is_valid([call] * 17 if is_parallel else [call] * 2)
    assert not validator.is_valid([])
    assert not validator.is_valid([{"name": "get_weather", "arguments": {}}])
    assert not validator.is_valid([{"name": "other", "arguments": {}}])
    assert not validator.is_valid([{**call, "more": 1}])


def test_references_that_multiply_end() -> None:
    """Thirty levels of two references each would take an hour; what cannot be said to fit does not."""
    definitions: dict[str, Any] = {"a0": {"type": "object"}}
    for level in range(1, 31):
        definitions[f"a{level}"] = {"oneOf": [{"$ref": f"#/$defs/a{level - 1}"}] * 2}
    functions = Functions([("f", {"$ref": "#/$defs/a30", "$defs": definitions})])
    began = time.monotonic()
    assert functions.checked("f", {"x": 1}) is None
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"n": 1e999}', None),
        ('{"n": NaN}', None),
        ('{"n": "\\ud83d"}', '{"n":"\\ud83d"}'),
        ('{"n": "\\ud83d\\ude00"}', '{"n":"\U0001f600"}'),
        ("[" * 5000, None),
        ('{"n":' * 990 + "1" + "}" * 990, None),
    ],
)
def test_arguments_are_json(arguments: str, text: str | None) -> None:
    call = Functions([("f", {"type": "object"})]).checked("f", arguments)
    assert (call.arguments if call is not None else None) == text
    if call is not None:
        call.arguments.encode()


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        ({"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"a": {"items": [{"type": "integer"}]}}},
         {"a": [1]}),
        ({"$schema": "http://json-schema.org/draft-04/schema#",
          "properties": {"a": {"minimum": 1, "exclusiveMinimum": True}}}, {"a": 2}),
        ({"properties": {"a": {"pattern": "^\\p{L}+$"}}}, {"a": "é"}),
    ],
)  # fmt: skip
def test_other_drafts(parameters: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert Functions([("f", parameters)]).checked("f", arguments) is not None


def test_reference_to_the_root() -> None:
    """It is the function's, not the list's that it becomes a part of."""
    tree = {
        "properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["v"],
        "default": {"$ref": "#"},
    }
    schema = Functions([("f", tree)]).list_schema(True)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid([{"name": "f", "arguments": {"v": 1, "kids": [{"v": 2}]}}])
    assert not validator.is_valid([{"name": "f", "arguments": {"v": 1, "kids": [{"x": 2}]}}])
    assert schema["$defs"]["0"]["default"] == {"$ref": "#"}


def test_definitions_of_the_same_name() -> None:
    """Each function keeps its own, under either keyword, and their references to each other."""
    one = {
        "properties": {"a": {"$ref": "#/$defs/Item"}},
        "required": ["a"],
        "$defs": {
            "Item": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Item"}, "n": {"type": "integer"}}}
        },
    }
    other = {
        "properties": {"a": {"$ref": "#/definitions/Item"}},
        "required": ["a"],
        "definitions": {"Item": {"type": "string"}},
    }
    schema = Functions([("one", one), ("other", other)]).list_schema(True)
    validator = jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))
    assert validator.is_valid([{"name": "one", "arguments": {"a": {"next": {"n": 1}}}}])
    assert not validator.is_valid([{"name": "one", "arguments": {"a": {"next": {"n": "x"}}}}])
    assert validator.is_valid([{"name": "other", "arguments": {"a": "x"}}])
    assert not validator.is_valid([{"name": "other", "arguments": {"a": {}}}])
