# SPDX-License-Identifier: Apache-2.0
"""What each kind of value reads as, and what it refuses with which words."""

import pytest

from serving.config import values

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("text", ["true", "True", "TRUE", "1", "yes", "on", "T", "y", " on "])
def test_words_for_true(text: str) -> None:
    assert values.parse_bool(text) is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "OFF", "f", "n"])
def test_words_for_false(text: str) -> None:
    assert values.parse_bool(text) is False


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("-1", -1), ("+3", 3), (" 4 ", 4), ("64.0", 64), ("007", 7)])
def test_whole_number(text: str, value: int) -> None:
    assert values.parse_int(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("8192", 8192), ("16k", 16_000), ("16K", 16_384), ("1.5k", 1_500), ("2m", 2_000_000), ("1G", 2**30), ("Auto", -1)],
)
def test_number_with_suffix(text: str, value: int) -> None:
    assert values.parse_human_int(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("""'{"a": 1}'""", {"a": 1}),
        (r"{\"a\": 1}", {"a": 1}),
        (r'"{\"a\": 1}"', {"a": 1}),
        ("{'a': True, 'b': (1, 2)}", {"a": True, "b": [1, 2]}),
        ("[1, 2]", [1, 2]),
    ],
)
def test_json_in_the_forms_people_write(text: str, value: object) -> None:
    assert values.parse_json(text) == value


@pytest.mark.parametrize(("text", "strict"), [('{"a": 1}', True), ("""'{"a": 1}'""", False), ("{'a': 1}", False)])
def test_json_object_as_it_stands(text: str, strict: bool) -> None:
    assert values.is_json_object(text) is strict


@pytest.mark.parametrize(("text", "value"), [('{"a": 1}', {"a": 1}), ("org/config", "org/config"), ("", "")])
def test_json_or_text(text: str, value: object) -> None:
    assert values.parse_json_or_str(text) == value


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("a", ["a"]),
        ("a, b,,", ["a", "b"]),
        ('["a", "b,c"]', ["a", "b,c"]),
        ("[1, 2]", ["1", "2"]),
        ('{"name": "x", "path": "/y,z"}', ['{"name": "x", "path": "/y,z"}']),
        ('[{"name": "x"}]', ['{"name": "x"}']),
    ],
)
def test_list(text: str, items: list[str]) -> None:
    assert values.parse_list(text) == items


@pytest.mark.parametrize(
    ("text", "counts"),
    [("image=4", {"image": 4}), ("image=4,video=0", {"image": 4, "video": 0}), ('{"image": 4}', None), ("image", None)],
)
def test_counts(text: str, counts: dict[str, int] | None) -> None:
    assert values.parse_counts(text) == counts


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("bool", "maybe", "expected true or false"),
        ("switch", "", "expected true or false"),
        ("int", "7.5", "expected a whole number"),
        ("int", "1e3", "expected a whole number"),
        ("human_int", "8kk", "expected a whole number"),
        ("human_int", "1.5K", "expected a whole number before the binary suffix K"),
        ("float", "80%", "expected a number"),
        ("str", "True", "expected a text"),
        ("list", '["a"', "expected JSON: Expecting ',' delimiter: line 1 column 5 (char 4)"),
        ("json", "{1, 2}", "expected JSON: Expecting property name enclosed in double quotes: "
         "line 1 column 2 (char 1)"),
        ("json_or_str", "{oops", "expected JSON: Expecting property name enclosed in double quotes: "
         "line 1 column 2 (char 1)"),
    ],
)  # fmt: skip
def test_refusal_quotes_the_text(kind: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as raised:
        values.PARSERS[kind](text)
    assert str(raised.value) == message


def test_json_object_must_be_one() -> None:
    with pytest.raises(ValueError, match=r"^expected a JSON object$"):
        values.parse_json_object("[1]")


def test_whole_numbers_have_an_error_of_their_own() -> None:
    """Configuration tells them apart from other faults."""
    with pytest.raises(values.NotWholeNumber):
        values.parse_int("many")
