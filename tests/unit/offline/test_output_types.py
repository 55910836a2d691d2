# SPDX-License-Identifier: Apache-2.0
"""What an answer is to look like, and what comes back of it."""

import enum
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from serving.offline.output_types import Grammar, Regex, output_type_of

pytestmark = pytest.mark.pure


class Character(BaseModel):
    name: str
    age: int


@dataclass
class Point:
    x: int
    y: int


class Pet(TypedDict):
    name: str


class Color(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        (str, {}),
        (None, {}),
        (Regex("[0-9]+"), {"regex": "[0-9]+"}),
        (Grammar("root ::= 'a'"), {"grammar": "root ::= 'a'"}),
        (["yes", "no"], {"choice": ["yes", "no"]}),
        (("yes",), {"choice": ["yes"]}),
        ({"type": "integer"}, {"json": {"type": "integer"}}),
        (int, {"json": {"type": "integer"}}),
        (Literal["a", "b"], {"json": {"enum": ["a", "b"], "type": "string"}}),
    ],
    ids=str,
)
def test_constraint(given: Any, constraint: dict[str, Any]) -> None:
    assert output_type_of(given).constraint == constraint


@pytest.mark.parametrize(
    ("given", "text", "value"),
    [
        (str, " a ", " a "),
        (Regex("[0-9]+"), "12", "12"),
        (["yes", "no"], "no", "no"),
        ({"type": "object"}, '{"a":1}', {"a": 1}),
        (Character, '{"name":"Ann","age":3}', Character(name="Ann", age=3)),
        (Point, '{"x":1,"y":2}', Point(1, 2)),
        (Pet, '{"name":"Rex"}', {"name": "Rex"}),
        (Color, '"red"', Color.RED),
        (list[int], "[1,2]", [1, 2]),
        (bool, "true", True),
        (Literal["a", "b"], '"b"', "b"),
    ],
    ids=str,
)
def test_value(given: Any, text: str, value: Any) -> None:
    assert output_type_of(given).read(text) == value


def test_schema_of_a_model() -> None:
    schema = output_type_of(Character).constraint["json"]
    assert (set(schema["properties"]), schema["required"]) == ({"name", "age"}, ["name", "age"])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("[0-9]+", "wrap it in Regex"),
        ([], "at least one"),
        (["a", 1], "list of texts"),
        (3, "no output type"),
        (object(), "no output type"),
    ],
    ids=repr,
)
def test_refused(given: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        output_type_of(given)
