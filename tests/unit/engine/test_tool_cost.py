# SPDX-License-Identifier: Apache-2.0
"""Chats without functions cost the same whether or not calls are recognized without a parser."""

import copy
from functools import partial
from typing import Any

import pytest
from starlette.datastructures import State
from starlette.requests import Request
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from serving import demo
from serving.engine import vllm_app
from tests.instructions import instructions
from tests.vllm_client import ScriptedClient

pytestmark = pytest.mark.vllm
PIECES = [f" word{number}" for number in range(200)]
MOST = 0.01


@pytest.fixture(scope="module")
def client() -> ScriptedClient:
    return ScriptedClient(str(demo.MODEL_DIR), PIECES)


async def state_of(client: ScriptedClient, tool_fallback: bool) -> State:
    return await vllm_app.build_state(client, copy.deepcopy(client.args), ("generate",), tool_fallback)


async def answer(state: State, stream: bool) -> str:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream, "max_tokens": 300}
    raw = Request({"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b"", "state": {}})
    made: Any = await state.openai_serving_chat.create_chat_completion(ChatCompletionRequest.model_validate(body), raw)
    text = "".join([event async for event in made]) if stream else made.model_dump_json()
    assert PIECES[-1] in text
    return text


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_chats_without_functions(client: ScriptedClient, stream: bool) -> None:
    without = await instructions(partial(answer, await state_of(client, False), stream))
    beside = await instructions(partial(answer, await state_of(client, True), stream))
    assert without > len(PIECES) * (100 if stream else 1)
    assert abs(beside / without - 1) <= MOST, (beside, without)
