# SPDX-License-Identifier: Apache-2.0
"""What a model is told of functions, calls and results where its template cannot show them."""

from typing import Any

import pytest

from serving.tools import prompt

pytestmark = pytest.mark.pure
TOOL = {"type": "function", "function": {"name": "now", "description": "the time", "strict": None}}
SHOWN = '{"name": "now", "description": "the time"}'
CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
CALL_TEXT = '<tool_call>{"name": "now", "arguments": {"zone": "UTC"}}</tool_call>'


@pytest.mark.parametrize(
    ("template", "tools", "calls"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", False, False),
        ("{% if tools %}{{ tools | tojson }}{% endif %}{{ m.tool_calls }}", True, True),
        ("{{ tools_in_user_message }}", False, False),
    ],
)
def test_what_a_template_knows(template: str, tools: bool, calls: bool) -> None:
    assert (prompt.knows_tools(template), prompt.knows_calls(template)) == (tools, calls)


@pytest.mark.parametrize(
    ("messages", "role", "begins"),
    [
        ([{"role": "user", "content": "hi"}], "system", "You can call"),
        ([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}], "system", "Be kind.\n\nYou"),
        (
            [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "hi"}],
            "developer",
            "Be kind.\n\nYou",
        ),
        ([], "system", "You can call"),
    ],
)
def test_functions(messages: list[Any], role: str, begins: str) -> None:
    before = [dict(message) for message in messages]
    first, *rest = prompt.with_functions(messages, [TOOL], takes_system=True)
    assert first["role"] == role
    assert first["content"].startswith(begins)
    assert SHOWN in first["content"]
    assert rest == [message for message in messages if message["role"] == "user"]
    assert messages == before


def test_functions_after_content_in_parts() -> None:
    messages = [{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}]
    (first,) = prompt.with_functions(messages, [TOOL], takes_system=True)
    assert [part["text"][:8] for part in first["content"]] == ["Be kind.", "You can "]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "content": CALL_TEXT}),
        (
            {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
            {"role": "assistant", "content": f"Let me see.\n\n{CALL_TEXT}"},
        ),
        ({"role": "function", "name": "f", "content": "5"}, {"role": "user", "content": "f returned:\n5"}),
        (
            {"role": "tool", "tool_call_id": "c9", "content": ""},
            {"role": "user", "content": "the function returned:\n"},
        ),
        ({"role": "user", "content": "hi"}, {"role": "user", "content": "hi"}),
        (
            {"role": "assistant", "content": "hi", "tool_calls": []},
            {"role": "assistant", "content": "hi", "tool_calls": []},
        ),
    ],
)
def test_history(message: dict[str, Any], shown: dict[str, Any]) -> None:
    assert prompt.with_calls_as_text([message]) == [shown]


def test_result_has_the_name_of_its_call() -> None:
    messages = [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]
    assert prompt.with_calls_as_text(messages)[1] == {"role": "user", "content": "now returned:\n12:00"}


def test_results_one_after_the_other_are_one_message() -> None:
    """Templates that know no tools often want user and assistant in turn."""
    results = [{"role": "tool", "name": name, "content": name.upper()} for name in ("a", "b")]
    shown = prompt.with_calls_as_text([*results, {"role": "user", "content": "go on"}])
    assert shown == [
        {"role": "user", "content": "a returned:\nA\n\nb returned:\nB"},
        {"role": "user", "content": "go on"},
    ]


@pytest.mark.parametrize(
    ("template", "is_taken"),
    [
        ("{{ m.role == 'system' }}", True),
        ("{{ raise_exception('System role not supported') }}", False),
        ("{{ m }}", False),
    ],
)
def test_template_without_a_place_for_the_system(template: str, is_taken: bool) -> None:
    assert prompt.takes_system(template) == is_taken
    messages = [{"role": "user", "content": "hi"}]
    shown = prompt.with_functions(messages, [TOOL], prompt.takes_system(template))
    if not is_taken:
        assert [message["role"] for message in shown] == ["user"]
        assert shown[0]["content"].endswith("\nhi")
        assert SHOWN in shown[0]["content"]


def test_arguments_that_are_no_json_stay_as_they_are() -> None:
    call = {"id": "c1", "function": {"name": "now", "arguments": "soon"}}
    (message,) = prompt.with_calls_as_text([{"role": "assistant", "tool_calls": [call]}])
    assert message["content"] == '<tool_call>{"name": "now", "arguments": "soon"}</tool_call>'
