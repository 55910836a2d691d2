# SPDX-License-Identifier: Apache-2.0
"""Our parser in vLLM's hands: what the engine is made to write, deltas, and which requests go without it."""

import json
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest
import xgrammar
from starlette.datastructures import State
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.exceptions import VLLMValidationError
from vllm.parser import ParserManager
from vllm.sampling_params import SamplingParams
from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar
from xgrammar.testing import _is_grammar_accept_string as accepts

from serving.engine import vllm_tools

pytestmark = pytest.mark.vllm
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "now"}},
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ROME = '{"name":"get_weather","arguments":{"city":"Rome"}}'


def chat(choice: Any, **fields: Any) -> ChatCompletionRequest:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "tool_choice": choice, **fields}
    return ChatCompletionRequest.model_validate(body)


def parser(request: Any) -> Any:
    """vLLM's parser with ours inside, as its serving objects make it for each request."""
    vllm_tools.install(arguments := flags(), engine("llama"))
    made = ParserManager.get_parser(arguments.tool_call_parser, enable_auto_tools=arguments.enable_auto_tool_choice)
    return made(None, request.tools)


def flags(parser: str | None = None, backend: str = "auto") -> Namespace:
    """vLLM's, as far as they are looked at."""
    return Namespace(
        tool_call_parser=parser,
        enable_auto_tool_choice=False,
        structured_outputs_config=SimpleNamespace(backend=backend),
    )


def engine(model_type: str) -> Any:
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type=model_type))
    return SimpleNamespace(renderer=SimpleNamespace(tokenizer=None), model_config=config)


@pytest.mark.parametrize(
    ("choice", "fields", "good", "bad"),
    [
        ("required", {}, [f"[{ROME}]", f'[{ROME},{{"name":"now","arguments":{{}}}}]'], ["[]", f"[ {ROME}]", "x"]),
        ("required", {"parallel_tool_calls": False}, [f"[{ROME}]"], [f"[{ROME},{ROME}]"]),
        (NAMED, {}, ['{"city":"Rome"}'], ["{}", '{"city": "Rome"}', "null", ROME]),
        ({"type": "function", "function": {"name": "now"}}, {}, ["{}"], ["{ }", '{"a":1}']),
    ],
)
def test_what_the_engine_must_write(choice: Any, fields: dict[str, Any], good: list[str], bad: list[str]) -> None:
    """Compact JSON of the functions' own schemas, whatever `strict` says."""
    request = chat(choice, response_format={"type": "text"}, **fields)
    adjusted = parser(request).adjust_request(request)
    constraint = adjusted.structured_outputs
    validate_xgrammar_grammar(SamplingParams(structured_outputs=constraint))
    grammar = xgrammar.Grammar.from_ebnf(constraint.grammar)
    assert [accepts(grammar, text) for text in good] == [True] * len(good)
    assert [accepts(grammar, text) for text in bad] == [False] * len(bad)
    assert adjusted.response_format is None


@pytest.mark.parametrize("choice", ["auto", None])
def test_nothing_is_demanded(choice: Any) -> None:
    request = chat(choice)
    assert parser(request).adjust_request(request).structured_outputs is None


def test_responses() -> None:
    tools = [{"type": "function", "name": "get_weather", "parameters": CITY}]
    request = ResponsesRequest.model_validate({"input": "x", "tools": tools, "tool_choice": "required"})
    made = parser(request)
    grammar = xgrammar.Grammar.from_ebnf(made.adjust_request(request).structured_outputs.grammar)
    assert accepts(grammar, f"[{ROME}]")
    _, content, calls = made.parse(f"[{ROME}]", request, enable_auto_tools=True)
    assert [(call.name, call.arguments) for call in calls] == [("get_weather", '{"city":"Rome"}')]
    assert not content


def test_schema_that_another_back_end_can_follow() -> None:
    """What xgrammar would not enforce is left to vLLM's choice of another one."""
    parameters = {"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 5}}}
    request = chat("required", tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    constraint = parser(request).adjust_request(request).structured_outputs
    assert constraint.grammar is None
    made = json.loads(constraint.json)
    assert made["$defs"]["0"] == parameters
    assert made["x-guidance"]["whitespace_flexible"] is False


def test_back_end_without_grammars() -> None:
    request = chat(NAMED)
    vllm_tools.install(arguments := flags(backend="guidance"), engine("llama"))
    made = ParserManager.get_parser(arguments.tool_call_parser, enable_auto_tools=True)
    constraint = made(None, request.tools).adjust_request(request).structured_outputs
    assert constraint.grammar is None
    assert json.loads(constraint.json)["properties"] == CITY["properties"]


@pytest.mark.parametrize("text", [f"I would call {ROME} here", ROME, f"<tool_call>{ROME}", "{"])
@pytest.mark.parametrize("size", [3, 1000])
def test_no_call_is_wanted(text: str, size: int) -> None:
    """`none` leaves the text as it is, calls in it included; so does a request without tools."""
    for request in (chat("none"), chat("none", tools=None)):
        _, content, calls = parser(request).parse(text, request, enable_auto_tools=True)
        assert (content, calls or []) == (text, [])
        streaming = parser(request)
        deltas = [
            streaming.parse_delta(text[begin : begin + size], [0], request, [1], finished=begin + size >= len(text))
            for begin in range(0, len(text), size)
        ]
        assert "".join(delta.content or "" for delta in deltas if delta) == text
        assert not any(delta.tool_calls for delta in deltas if delta)


@pytest.mark.parametrize("parameters", [{"type": "objec"}, {"type": "string"}, {"$ref": "#/$defs/gone"}])
@pytest.mark.parametrize("choice", ["required", "auto"])
def test_bad_schema(parameters: dict[str, Any], choice: str) -> None:
    request = chat(choice, tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    if choice == "auto" and "$ref" in parameters:
        assert parser(request).adjust_request(request).structured_outputs is None
        return
    with pytest.raises(VLLMValidationError, match="parameters of"):
        parser(request).adjust_request(request)


@pytest.mark.parametrize(
    ("choice", "text", "calls", "content"),
    [
        ("auto", "Rome is nice.", [], "Rome is nice."),
        ("auto", f"Let me see. {ROME}", ["get_weather"], "Let me see. "),
        ("required", f"[{ROME},{ROME}]", ["get_weather"] * 2, None),
        ("required", f"[{ROME},{ROME[:-3]}", ["get_weather"], None),
        (NAMED, '{"city":"Rome"}', ["get_weather"], None),
        (NAMED, '{"city":"Ro', [], None),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_stream_and_whole_answer_say_the_same(
    choice: Any, text: str, calls: list[str], content: str | None, size: int
) -> None:
    request = chat(choice)
    _, whole, found = parser(request).parse(text, request, enable_auto_tools=True)
    assert ([call.name for call in found or ()], whole or None) == (calls, content)
    streaming = parser(request)
    deltas: list[DeltaMessage] = []
    for begin in range(0, len(text), size):
        is_last = begin + size >= len(text)
        delta = streaming.parse_delta(text[begin : begin + size], [0], request, [1], finished=is_last)
        deltas += [delta] if delta is not None else []
    assert "".join(delta.content or "" for delta in deltas) == (content or "")
    made = [call for delta in deltas for call in delta.tool_calls]
    assert [call.index for call in made] == list(range(len(calls)))
    assert [call.function.name for call in made] == calls
    assert [json.loads(call.function.arguments) for call in made] == [{"city": "Rome"}] * len(calls)
    assert len({call.id for call in made}) == len(calls)


@pytest.mark.parametrize(
    ("configured", "model_type", "name"),
    [(None, "llama", "lmi_fallback"), ("hermes", "llama", "hermes"), (None, "gpt_oss", None)],
)
def test_a_parser_of_their_own_wins(configured: str | None, model_type: str, name: str | None) -> None:
    arguments = flags(configured)
    vllm_tools.install(arguments, engine(model_type))
    assert arguments.tool_call_parser == name
    assert arguments.enable_auto_tool_choice == (name == "lmi_fallback")


def test_requests_without_tools_have_no_parser() -> None:
    request = chat("auto")
    vllm_tools.install(arguments := flags(), engine("llama"))
    serving = OpenAIServingChat.__new__(OpenAIServingChat)
    serving.parser_cls = ParserManager.get_parser(arguments.tool_call_parser, enable_auto_tools=True)
    serving.model_config = None
    state = State()
    state.openai_serving_chat = serving
    vllm_tools.note_modes(state)
    assert isinstance(serving._make_parser(request, None, None).tool_parser, vllm_tools.FallbackToolParser)
    assert serving._make_parser(chat("none", tools=None), None, None) is None


@pytest.mark.parametrize(
    ("template", "says"), [("{{ messages }} system", True), ("{{ tools }}{{ tool_calls }}", False), (None, False)]
)
async def test_prompt(template: str | None, says: bool) -> None:
    class Renderer:
        renderer = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=template))

        async def preprocess_chat(
            self, request: Any, messages: list[Any], default_template: str | None, **_: Any
        ) -> Any:
            return messages

    renderer: Any = Renderer()
    vllm_tools.tell_of_tools(renderer)
    messages = [{"role": "user", "content": "hi"}, {"role": "tool", "tool_call_id": "c", "content": "5"}]
    shown = await renderer.preprocess_chat(SimpleNamespace(), messages, default_template=None, tool_dicts=TOOLS)
    assert (shown[0]["role"] == "system") == says
    assert (shown[-1]["role"] == "user") == says
    plain = [{"role": "user", "content": "hi"}]
    assert await renderer.preprocess_chat(SimpleNamespace(), plain, default_template=None) is plain
