# SPDX-License-Identifier: Apache-2.0
"""vLLM's own response objects and events, as the user's output formatters get them."""

import json
from argparse import Namespace
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import State
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponse, CompletionResponseChoice
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, UsageInfo
from vllm.logprobs import Logprob

from handlers.dict_access import with_dict_access
from handlers.generation import as_completion
from serving.config.limits import Limits
from serving.engine import vllm_engine
from serving.engine.vllm_engine import VllmEngine
from serving.errors import EngineError, EngineOverloaded, PayloadError
from serving.ledger import Ledger
from serving.schemas import lmi, rolling_batch
from serving.schemas.generation import LmiRequest, OpenAIRequest
from serving.schemas.output import Defaults

pytestmark = pytest.mark.vllm
DONE = "data: [DONE]\n\n"
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def test_completion() -> None:
    choice = CompletionResponseChoice(index=0, text="hi", prompt_logprobs=[None, {5: Logprob(-1.0)}])
    response = CompletionResponse(model="m", choices=[choice], usage=UsageInfo(**USAGE), extra={"a": 1})
    dumped, as_json = response.model_dump(), response.model_dump_json()
    made: Any = with_dict_access(response)
    assert made is response
    assert isinstance(made, CompletionResponse)
    assert isinstance(made.choices[0], CompletionResponseChoice)
    assert (made["choices"][0]["text"], made.choices[0].text, made["extra"]["a"]) == ("hi", "hi", 1)
    assert (made["choices"][0]["finish_reason"], made["usage"]["total_tokens"]) == (None, 3)
    assert ("choices" in made, "nope" in made, made.get("nope", 5)) == (True, False, 5)
    assert (made.model_dump(), made.model_dump_json()) == (dumped, as_json)
    assert set(made.keys()) == set(dumped)


def test_chat() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hi", "tool_calls": [call]}
    given = {"model": "m", "choices": [{"index": 0, "message": message}], "usage": USAGE}
    response = ChatCompletionResponse.model_validate(given)
    as_json = response.model_dump_json()
    made: Any = with_dict_access(response)
    said = made["choices"][0]["message"]
    assert (said["content"], said.content, said["tool_calls"][0]["function"]["name"]) == ("hi", "hi", "f")
    assert made.model_dump_json() == as_json


async def events(*texts: str) -> AsyncGenerator[str]:
    for text in texts:
        yield text


async def test_events() -> None:
    texts = ['data: {"id": 1}\n\n', DONE]
    assert [event async for event in vllm_engine._events(events(texts[0], ": ping\n\n", texts[1]))] == texts


@pytest.mark.parametrize(
    ("code", "error"), [(400, PayloadError), (404, PayloadError), (500, EngineError), (503, EngineOverloaded)]
)
@pytest.mark.parametrize("before", [[], ['data: {"id": 1}\n\n']])
async def test_error_among_events(code: int, error: type[Exception], before: list[str]) -> None:
    said = json.dumps({"error": {"message": "it broke", "type": "t", "param": None, "code": code}})
    read = vllm_engine._events(events(*before, f"data: {said}\n\n", DONE))
    assert [await anext(read) for _ in before] == before
    with pytest.raises(error, match=r"^it broke$") as raised:
        await anext(read)
    assert type(raised.value) is error


@pytest.mark.parametrize("kind", ["object", "events", "refusal"])
async def test_answer_of_a_route(kind: str) -> None:
    """What vLLM's serving object returns, as it is; its error object is raised."""
    response = CompletionResponse(model="m", choices=[], usage=UsageInfo())
    error = ErrorResponse.model_validate({"error": {"message": "no such model", "type": "t", "code": 404}})
    answers = {"object": response, "events": events(DONE), "refusal": error}

    async def create_completion(body: CompletionRequest, raw_request: object) -> object:
        assert body.prompt == "hi"
        return answers[kind]

    engine = VllmEngine(Namespace(), "m", Limits(1, 1, 1, 1), Ledger(), tool_fallback=True)
    engine.state = State({"openai_serving_completion": SimpleNamespace(create_completion=create_completion)})
    asked = engine.openai_objects(OpenAIRequest("completion", {"prompt": "hi"}), {})
    if kind == "refusal":
        with pytest.raises(PayloadError, match=r"^no such model$"):
            await asked
    elif kind == "events":
        assert [event async for event in await asked] == [DONE]
    else:
        assert await asked is response


@pytest.mark.parametrize("parse", [lmi.parse, rolling_batch.parse])
def test_body_in_words_of_lmi(parse: Any) -> None:
    """The engine gets the same parameters as without an output formatter."""
    mode = "async" if parse is lmi.parse else "rolling_batch"
    fields = {"max_new_tokens": 7, "do_sample": True, "top_p": 0.5, "details": True, "stop_sequences": ["x"], "seed": 1}
    parsed: LmiRequest = parse({"inputs": "hi", "parameters": fields}, Defaults(mode))
    model_defaults = {"temperature": 0.3, "top_k": 3, "repetition_penalty": 1.2, "presence_penalty": 0.5}
    body = CompletionRequest.model_validate(dict(as_completion(parsed, 512).body))
    made = vllm_engine.engine_parameters(body, model_defaults, 512, 1, None)
    (one,) = parsed.generations
    request = vllm_engine.completion_request(one, 512)
    expected = vllm_engine.engine_parameters(request, model_defaults if one.use_generation_config else {}, 512, 1, None)
    assert repr(made) == repr(expected)


def test_prompt_alone() -> None:
    payload = {"inputs": "hi", "parameters": {"max_new_tokens": 0, "return_full_text": True}}
    body = CompletionRequest.model_validate(dict(as_completion(lmi.parse(payload, Defaults()), 512).body))
    assert (body.echo, body.max_tokens, body.prompt) == (True, 0, "hi")
