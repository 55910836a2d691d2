# SPDX-License-Identifier: Apache-2.0
"""LMI's older chat objects, made of vLLM's."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from serving.formatters import older_chat
from serving.formatters.base import Framing

pytestmark = pytest.mark.pure
CHAT = {"messages": []}


@pytest.mark.parametrize(
    ("body", "formatter", "form", "max_tokens"),
    [
        ({}, None, "json_chat", None),
        ({"stream": True}, None, "sse_chat", None),
        ({"stream": "false"}, None, "json_chat", None),
        ({"stream": True}, "jsonlines_chat", "jsonlines_chat", None),
        ({"stream": True}, "json_chat", "json_chat", None),
        ({}, "sse_chat", "sse_chat", None),
        ({}, "sse", "json_chat", None),
        ({"max_tokens": 3, "max_completion_tokens": 2}, None, "json_chat", 3),
        ({"max_completion_tokens": 2}, None, "json_chat", 2),
        ({"max_tokens": 0}, None, "json_chat", None),
        ({"max_tokens": 9999}, None, "json_chat", 512),
        ({"max_tokens": "x"}, None, "json_chat", "x"),
    ],
)
def test_request(body: dict[str, Any], formatter: str | None, form: str, max_tokens: Any) -> None:
    made, name = older_chat.request(CHAT | body | {"n": 2, "stream_options": {}}, formatter, 512)
    assert name == form
    assert made["stream"] == (form != "json_chat")
    assert made.get("max_tokens") == max_tokens
    assert made.keys() <= {"messages", "stream", "max_tokens"}


def vllm_object(message: dict[str, Any], reason: str | None, stop: object = None) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": reason, "stop_reason": stop, "logprobs": {}}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "more": 4}
    return json.dumps(
        {"id": "i", "object": "o", "created": 5, "model": "m", "choices": [choice], "usage": usage}
    ).encode()


@pytest.mark.parametrize(
    ("message", "reason", "stop", "word"),
    [
        ({"role": "assistant", "content": "x"}, "stop", None, "eos_token"),
        ({"role": "assistant", "content": "x"}, "stop", "y", "stop_sequence"),
        ({"role": "assistant", "content": "x"}, "stop", 7, "stop_sequence"),
        ({"role": "assistant", "content": "x"}, "stop", 106, "eos_token"),
        ({"role": "assistant", "content": "x"}, "length", None, "length"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}, "tool_calls", None, "tool_calls"),
    ],
)
def test_whole(message: dict[str, Any], reason: str, stop: object, word: str) -> None:
    assert json.loads(older_chat.whole(vllm_object(message, reason, stop), [7])) == {
        "id": "i",
        "object": "o",
        "created": 5,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": word}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }


def test_reasoning_has_both_names() -> None:
    made = json.loads(older_chat.whole(vllm_object({"role": "assistant", "content": "x", "reasoning": "r"}, "stop")))
    assert made["choices"][0]["message"] == {
        "role": "assistant", "content": "x", "reasoning": "r", "reasoning_content": "r"
    }  # fmt: skip


async def events(*deltas: tuple[dict[str, Any], str | None]) -> AsyncGenerator[bytes]:
    """vLLM's stream of these deltas, the usage at its end."""
    for delta, reason in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield json.dumps({"id": "i", "object": "o", "created": 5, "choices": [choice]}).encode()
    yield json.dumps({"id": "i", "object": "o", "created": 5, "choices": [], "usage": {}}).encode()


@pytest.mark.parametrize(("framing", "before"), [("events", "data: "), ("lines", "")])
async def test_stream(framing: Framing, before: str) -> None:
    source = events(({"role": "assistant", "content": ""}, None), ({"content": "a"}, None), ({"content": "b"}, "stop"))
    items = [item.decode() async for item in older_chat.stream(source, framing)]
    if framing == "events":
        assert items.pop() == "data: [DONE]\n\n"
    choices = [json.loads(item.removeprefix(before))["choices"][0] for item in items]
    assert [choice["delta"] for choice in choices] == [{"content": "a", "role": "assistant"}, {"content": "b"}]
    assert [choice["finish_reason"] for choice in choices] == [None, "eos_token"]


async def test_stream_that_fails() -> None:
    async def failing() -> AsyncGenerator[bytes]:
        yield b'{"error": {"message": "x"}}'

    assert [item async for item in older_chat.stream(failing(), "events")] == [b'data: {"error": {"message": "x"}}\n\n']
