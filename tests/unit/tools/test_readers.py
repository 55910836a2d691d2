# SPDX-License-Identifier: Apache-2.0
"""Calls in texts, however the text is cut into pieces; what is no call stays the text that it was."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.tools.functions import Call, Functions
from serving.tools.readers import ArgumentsReader, ListReader, Reader, TextReader, joined, whole

pytestmark = pytest.mark.pure
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTIONS = Functions([("get_weather", CITY), ("now", None)])
NOW = Call("now", "{}")
ROME = Call("get_weather", '{"city":"Rome"}')
BROKEN = Call("get_weather", '{"city":"Ro\\nme\\u001d"}')
ROME_TEXT = '{"name": "get_weather", "arguments": {"city": "Rome"}}'


def in_pieces(reader: Reader, text: str, size: int) -> tuple[str, list[Call]]:
    found: list[Call | str] = []
    for begin in range(0, len(text), size):
        found += reader.feed(text[begin : begin + size])
    return joined(found + reader.feed("", is_last=True))


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (ROME_TEXT, "", [ROME]),
        (f"<tool_call>\n{ROME_TEXT}\n</tool_call>", "", [ROME]),
        (f"<tool_call>{ROME_TEXT}", "", [ROME]),
        (f"```json\n{ROME_TEXT}\n```", "", [ROME]),
        (f"```\n{ROME_TEXT}\n```\nDone.", "Done.", [ROME]),
        (f"I look it up.\n{ROME_TEXT}", "I look it up.\n", [ROME]),
        (f'{ROME_TEXT}\n{{"tool": "now", "params": {{}}}}', "", [ROME, NOW]),
        (f'[{ROME_TEXT}, {{"name": "now"}}]', "", [ROME, NOW]),
        ('{"name": "get_weather", "arguments": {"city": "Ro\nme\x1d"}}', "", [BROKEN]),
        (f"<tool_call>{ROME_TEXT}\n{ROME_TEXT}</tool_call> Done.", "Done.", [ROME, ROME]),
        (f'Sizes [5" to 6 in]. <tool_call>{ROME_TEXT}</tool_call>', 'Sizes [5" to 6 in]. ', [ROME]),
        (f"```json\n{ROME_TEXT}\n```\n```json\n{ROME_TEXT}\n```", "", [ROME, ROME]),
        ('{"name": "Bob"} and {"name":"now"}', '{"name": "Bob"} and ', [NOW]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls(text: str, rest: str, calls: list[Call], size: int) -> None:
    assert in_pieces(TextReader(FUNCTIONS), text, size) == (rest, calls)
    assert whole(TextReader(FUNCTIONS), text) == (rest, calls)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "LoRA adapts a model.",
        "a < b, {x} [y] ` `` ``` <tool_ <tool_call> no",
        "```python\nprint({'name': 'now'})\n```",
        '{"name": "none", "arguments": {}}',
        '{"name": "get_weather", "arguments": {"city": "Ro',
        '{"name": "get_weather", "arguments": {"city": 5}}',
        '{"name": "now", "arguments": {"n": NaN}}',
        '[{"name": "now"}, {"name": "none"}]',
        "[]",
        '{"name":' + "[" * 1000,
        '{"x": "y"} {"city": {"name": "now"}}',
        '{"name": "now", "description": "the time", "parameters": {}}',
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_text_is_untouched(text: str, size: int) -> None:
    assert in_pieces(TextReader(FUNCTIONS), text, size) == (text, [])
    assert whole(TextReader(FUNCTIONS), text) == (text, [])


@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "{",
                    "}",
                    "[",
                    "]",
                    '"name"',
                    '"tool"',
                    ":",
                    '"now"',
                    '"none"',
                    ",",
                    "<tool_call>",
                    "</tool_call>",
                    "```",
                ),
                *("json", "\n", " ", "é", '"arguments"', "{}", "1", '\\"', ROME_TEXT, '{"name":"now"}'),
            ]
        )
    ),
    st.integers(1, 12),
)
@example(["```", "json", "\n", '{"name":"now"}', "```"], 4)
def test_pieces_do_not_matter(parts: list[str], size: int) -> None:
    text = "".join(parts)
    assert in_pieces(TextReader(FUNCTIONS), text, size) == whole(TextReader(FUNCTIONS), text)


@pytest.mark.parametrize(
    ("text", "early"),
    [
        ("Rome is a city.", "Rome is a city."),
        ("a {b} c", "a {b} c"),
        ('{"city": "Rome', '{"city": "Rome'),
        ('x {"name": "Bo', "x "),
        ('{"name": "Bob", "age"', '{"name": "Bob", "age"'),
        ("so: <tool", "so: "),
    ],
)
def test_held_back_only_while_it_may_be_a_call(text: str, early: str) -> None:
    reader = TextReader(FUNCTIONS)
    assert joined(reader.feed(text)) == (early, [])
    assert joined(reader.feed("", is_last=True)) == (text.removeprefix(early), [])


@pytest.mark.parametrize(
    "text",
    [
        "plain prose, " * 4000,
        "[" + ",".join('{"name": "Person", "age": 0}' for _ in range(1600)) + "]",
        '{"type":"object","properties":{' + ",".join(f'"a{n}":{{}}' for n in range(5000)) + "}}",
        '{"name":"get_weather","arguments":{"city":"' + "x" * 50_000 + '"}}',
        "{" + " " * 50_000,
        "```json\n" + " " * 50_000,
        "[" * 50_000,
        "[] " * 16_000,
        '{"name":' + "[" * 50_000,
    ],
)
def test_long_texts_are_read_in_little_time(text: str) -> None:
    began = time.process_time()
    rest, calls = in_pieces(TextReader(FUNCTIONS), text, 4)
    assert (rest, calls) == whole(TextReader(FUNCTIONS), text)
    assert time.process_time() - began < 3
    assert rest == text or calls


def test_list_of_something_else_is_given_up_early() -> None:
    reader = TextReader(FUNCTIONS)
    text = '[{"name": "Alice", "age": 3}, {"name": "Bo'
    assert joined(reader.feed(text)) == (text, [])


def test_call_comes_out_when_it_is_complete() -> None:
    reader = TextReader(FUNCTIONS)
    assert reader.feed(ROME_TEXT[:-1]) == []
    assert reader.feed("}") == [ROME]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (f'[{ROME_TEXT},{{"name":"now","arguments":{{}}}}]', [ROME, NOW]),
        (f'[{ROME_TEXT},{{"name":"now","argum', [ROME]),
        ('[{"name":"get_weather","arguments":{"city":5}}]', []),
        ("[{", []),
        ("", []),
    ],
)
def test_demanded_list(text: str, calls: list[Call], size: int) -> None:
    assert in_pieces(ListReader(FUNCTIONS), text, size) == ("", calls)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(("text", "calls"), [('{"city":"Rome"}', [ROME]), ('{"city":"Ro', []), ('{"city":5}', [])])
def test_demanded_arguments(text: str, calls: list[Call], size: int) -> None:
    assert in_pieces(ArgumentsReader(FUNCTIONS, "get_weather"), text, size) == ("", calls)
