# SPDX-License-Identifier: Apache-2.0
"""Words of clients at vLLM's serving objects: translated, refused if they contradict; reasoning by both names."""

import json
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.datastructures import State
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatMessage
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError

from serving.engine import vllm_words

pytestmark = pytest.mark.vllm
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


class Models:
    """Two names for the base model, one adapter."""

    def __init__(self, *adapters: str):
        self.base_model_paths = [SimpleNamespace(name="lmi"), SimpleNamespace(name="org/m")]
        self.lora_requests = dict.fromkeys(adapters)

    def is_base_model(self, name: str | None) -> bool:
        return name in ("lmi", "org/m")

    async def show_available_models(self) -> Any:
        cards = [
            SimpleNamespace(id=one.name, model_dump=lambda one=one: {"id": one.name}) for one in self.base_model_paths
        ]
        return SimpleNamespace(data=cards)


class Serving:
    """Stands for vLLM's serving object: keeps the request it gets."""

    def __init__(self, answer: Any = None, parser: Any = None, adapters: tuple[str, ...] = ()):
        self.models = Models(*adapters)
        self.parser_cls = parser
        self.request: Any = None
        self._answer = answer

    async def create_chat_completion(self, request: Any, raw_request: Any = None) -> Any:
        self.request = request
        return self._answer

    create_completion = create_chat_completion


def accepting(serving: Serving) -> Serving:
    state = State()
    state.openai_serving_chat = state.openai_serving_completion = serving
    vllm_words.accept(state)
    return serving


async def asked(request: Any, **fields: Any) -> Any:
    serving = accepting(Serving(**fields))
    await serving.create_chat_completion(request)
    return serving.request


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}], **fields})


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": "x", **fields})


@pytest.mark.parametrize("make", [chat, completion])
@pytest.mark.parametrize(
    ("fields", "member", "value"),
    [
        ({"guided_json": SCHEMA}, "json", SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, "json", json.dumps(SCHEMA)),
        ({"guided_regex": "a+", "guided_decoding_backend": "outlines"}, "regex", "a+"),
        ({"guided_choice": ["a", "b"]}, "choice", ["a", "b"]),
        ({"guided_grammar": 'root ::= "a"', "guided_json": None}, "grammar", 'root ::= "a"'),
        ({"response_format": {"type": "json_object", "value": SCHEMA}}, "json", SCHEMA),
    ],
)
async def test_constraint(make: Any, fields: dict[str, Any], member: str, value: Any) -> None:
    request = await asked(make(**fields))
    assert getattr(request.structured_outputs, member) == value
    assert getattr(request.to_sampling_params(5, {}).structured_outputs, member) == value


async def test_whitespace_pattern() -> None:
    request = await asked(chat(guided_json=SCHEMA, guided_whitespace_pattern=" ?"))
    assert request.structured_outputs.whitespace_pattern == " ?"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"guided_json": SCHEMA, "structured_outputs": {"regex": "a"}}, "not both"),
        (
            {"response_format": {"type": "json_object", "value": SCHEMA}, "structured_outputs": {"regex": "a"}},
            "not both",
        ),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "only use one kind"),
    ],
)
async def test_contradictions(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(VLLMValidationError, match=text):
        await asked(chat(**fields))


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "json_object"}}, {"guided_decoding_backend": "x"}])
async def test_nothing_to_translate(fields: dict[str, Any]) -> None:
    request = await asked(chat(**fields))
    assert request.structured_outputs is None
    assert (request.response_format is None) == ("response_format" not in fields)


@pytest.mark.parametrize(
    ("name", "adapters", "becomes"),
    [
        ("dummy", (), "lmi"),
        ("tgi", (), "lmi"),
        ("tgi", ("tgi",), "tgi"),
        ("org/m", (), "org/m"),
        ("x", (), "x"),
        (None, (), None),
    ],
)
async def test_name_of_the_base_model(name: str | None, adapters: tuple[str, ...], becomes: str | None) -> None:
    assert (await asked(chat(model=name), adapters=adapters)).model == becomes


REASONS = SimpleNamespace(reasoning_parser_cls=object)


async def test_reasoning_of_a_whole_answer() -> None:
    message = ChatMessage(role="assistant", reasoning="because", content="yes")
    answer = SimpleNamespace(choices=[SimpleNamespace(message=message)])
    given = await accepting(Serving(answer, REASONS)).create_chat_completion(chat())
    dumped = given.choices[0].message.model_dump()
    assert (dumped["reasoning"], dumped["reasoning_content"]) == ("because", "because")


async def test_reasoning_of_a_stream() -> None:
    events = [
        'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n',
        'data: {"choices":[{"index":0,"delta":{"reasoning":"é"}}]}\n\n',
        'data: {"choices":[{"index":0,"delta":{"content":"the \\"reasoning\\": yes"}}]}\n\n',
        "data: [DONE]\n\n",
    ]

    async def stream() -> AsyncGenerator[str]:
        for event in events:
            yield event

    given = await accepting(Serving(stream(), REASONS)).create_chat_completion(chat())
    found = [event async for event in given]
    assert [found[0], *found[2:]] == [events[0], *events[2:]]
    delta = json.loads(found[1].removeprefix("data: "))["choices"][0]["delta"]
    assert delta == {"reasoning": "é", "reasoning_content": "é"}


async def test_stream_without_reasoning_is_left_alone() -> None:
    async def stream() -> AsyncGenerator[str]:
        yield ""

    answer = stream()
    assert await accepting(Serving(answer)).create_chat_completion(chat()) is answer


@pytest.mark.parametrize(
    ("path", "status"), [("lmi", 200), ("org/m", 200), ("org%2Fm", 200), ("nope", 404), ("org/m/x", 404)]
)
async def test_one_model(path: str, status: int) -> None:
    app, state = FastAPI(), State()
    state.openai_serving_models = Models()
    vllm_words.attach(app, state)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get(f"/v1/models/{path}")
    assert answer.status_code == status
    assert answer.json().get("id", "") == (path.replace("%2F", "/") if status == 200 else "")
    if status == 404:
        assert answer.json()["error"]["type"] == "NotFoundError"
