# SPDX-License-Identifier: Apache-2.0
"""Tools on a model that knows nothing of them: no call is half or wrong, whatever it writes."""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest

from serving import demo
from tests.e2e.process import LmiProcess, metric

pytestmark = pytest.mark.long
NUM_REQUESTS = 200
NUM_CLIENTS = 8
QUESTION = "What is LoRA?"
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["c", "f"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "minItems": 1, "maxItems": 2}},
    "required": ["items"],
    "$defs": {
        "Item": {
            "type": "object",
            "properties": {"kind": {"enum": ["a", "b"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["kind", "n"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS: dict[str, Any] = {
    "get_weather": CITY,
    "order": NESTED,
    "now": {"type": "object", "additionalProperties": False},
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": CITY}},
    {"type": "function", "function": {"name": "order", "parameters": NESTED}},
    {"type": "function", "function": {"name": "now"}},
]
HISTORY = [
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
]  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "auto": {"tool_choice": "auto"},
    "required": {"tool_choice": "required"},
    "named": {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    "parallel": {"tool_choice": "required", "parallel_tool_calls": True, "max_tokens": 300},
    "one at a time": {"tool_choice": "required", "parallel_tool_calls": False},
    "nested schemas": {"tool_choice": {"type": "function", "function": {"name": "order"}}},
    "enums": {"tool_choice": "required", "tools": TOOLS[:1]},
    "no parameters": {"tool_choice": {"type": "function", "function": {"name": "now"}}},
    "streamed": {"tool_choice": "required", "stream": True},
    "n=3": {"tool_choice": "required", "n": 3},
    "cut": {"tool_choice": "required", "max_tokens": 7},
    "results in the history": {"tool_choice": "required", "messages": HISTORY},
}
PATHS = ("/v1/chat/completions", "/invocations")


@pytest.fixture(scope="module")
def server() -> Iterator[LmiProcess]:
    """The demo model with sampling, so that no two answers need be the same."""
    with LmiProcess(["--demo", "--port", "0", "--generation-config", "vllm"]) as process:
        yield process


def choices(answer: httpx.Response) -> list[dict[str, Any]]:
    """Message and finish reason of each choice; a stream's pieces put together as OpenAI's clients do."""
    if answer.headers["content-type"] == "application/json":
        return [{**choice["message"], "finish_reason": choice["finish_reason"]} for choice in answer.json()["choices"]]
    made: dict[int, dict[str, Any]] = {}
    for line in answer.text.splitlines():
        data = line.removeprefix("data: ")
        if not data or data == "[DONE]":
            continue
        for choice in json.loads(data)["choices"]:
            one = made.setdefault(choice["index"], {"content": "", "tool_calls": {}})
            one["content"] += choice["delta"].get("content") or ""
            for piece in choice["delta"].get("tool_calls") or []:
                call = one["tool_calls"].setdefault(piece["index"], {"function": {"name": "", "arguments": ""}})
                call["id"] = call.get("id") or piece["id"]
                for part in ("name", "arguments"):
                    call["function"][part] += piece["function"].get(part) or ""
            one["finish_reason"] = choice["finish_reason"] or one.get("finish_reason")
    return [{**one, "tool_calls": list(one["tool_calls"].values())} for one in made.values()]


def check(choice: dict[str, Any], body: dict[str, Any]) -> int:
    """The number of calls, all of which are whole and right."""
    calls = choice.get("tool_calls") or []
    for call in calls:
        name, text = call["function"]["name"], call["function"]["arguments"]
        assert name in SCHEMAS
        arguments = json.loads(text)
        jsonschema.validate(arguments, SCHEMAS[name])
        assert text == json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)
    assert len({call["id"] for call in calls}) == len(calls)
    wanted = body["tool_choice"]
    if wanted != "auto" and choice["finish_reason"] != "length":
        assert calls
    if isinstance(wanted, dict):
        assert [call["function"]["name"] for call in calls] in ([], [wanted["function"]["name"]])
        assert choice["finish_reason"] in ("stop", "length")
    elif calls and choice["finish_reason"] != "length":
        assert choice["finish_reason"] == "tool_calls"
    if body.get("parallel_tool_calls") is False:
        assert len(calls) <= 1
    return len(calls)


@pytest.mark.parametrize("kind", KINDS)
def test_calls(server: LmiProcess, kind: str) -> None:
    def ask(number: int) -> tuple[int, int]:
        body = {"messages": [{"role": "user", "content": QUESTION}], "tools": TOOLS, "max_tokens": 150, "seed": number}
        body |= KINDS[kind]
        path = PATHS[number % 2]
        with httpx.Client(timeout=300) as client:
            answer = client.post(f"{server.url}{path}", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-tool-calls-by"] == "fallback"
        found = choices(answer)
        assert len(found) == body.get("n", 1)
        return sum(check(choice, body) for choice in found), len(found)

    before = metric(server.url, "lmi_tool_requests_total") if kind != "auto" else 0
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        results = list(pool.map(ask, range(NUM_REQUESTS)))
    assert metric(server.url, "lmi_tool_requests_total") == before + NUM_REQUESTS
    num_calls = sum(calls for calls, _ in results)
    if kind not in ("auto", "cut"):
        assert num_calls > NUM_REQUESTS / 4, f"{num_calls} calls"
    assert metric(server.url, "vllm:num_requests_running") == 0


def test_one_prompt_for_all(server: LmiProcess) -> None:
    """`/tokenize` counts what a chat takes, with and without tools."""
    for tools, messages in itertools.product((None, TOOLS), (HISTORY[:1], HISTORY)):
        body = {"messages": messages, "tools": tools}
        counted = httpx.post(f"{server.url}/tokenize", json=body).json()["count"]
        chat = httpx.post(f"{server.url}/v1/chat/completions", json=body | {"max_tokens": 1}).json()
        assert counted == chat["usage"]["prompt_tokens"]


def test_other_routes(server: LmiProcess) -> None:
    tool = {"name": "get_weather", "parameters": CITY}
    body = {"input": QUESTION, "tools": [{"type": "function", **tool}], "tool_choice": "required"}
    answer = httpx.post(f"{server.url}/v1/responses", json=body | {"max_output_tokens": 300}, timeout=60).json()
    calls = [item for item in answer["output"] if item["type"] == "function_call"]
    assert calls
    for call in calls:
        jsonschema.validate(json.loads(call["arguments"]), SCHEMAS[call["name"]])
    messages = {
        "model": "lmi",
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [{"name": "get_weather", "input_schema": CITY}],
        "tool_choice": {"type": "any"},
        "max_tokens": 300,
    }
    answer = httpx.post(f"{server.url}/v1/messages", json=messages, timeout=60).json()
    uses = [item for item in answer["content"] if item["type"] == "tool_use"]
    assert uses
    for use in uses:
        jsonschema.validate(use["input"], SCHEMAS[use["name"]])


def test_refusals(server: LmiProcess) -> None:
    """What is wrong in a request is the client's fault, in the words of the route's family."""
    for fields in (
        {"tools": []},
        {"tool_choice": "auto"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nope"}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "objec"}}}]},
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/$defs/gone"}}}],
            "tool_choice": "required",
        },
    ):
        body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 5, **fields}
        statuses = [httpx.post(f"{server.url}{path}", json=body).status_code for path in PATHS]
        assert statuses == [400, 424], fields
    plain = {"inputs": QUESTION, "parameters": {"do_sample": False, "max_new_tokens": 40}}
    answer = httpx.post(f"{server.url}/invocations", json=plain)
    assert answer.json()["generated_text"] == demo.answers()[QUESTION]
