# SPDX-License-Identifier: Apache-2.0
"""Chats without functions cost the same whether or not calls are recognized without a parser."""

import copy
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from types import FrameType
from typing import Any

import pytest
from starlette.datastructures import State
from starlette.requests import Request
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from serving import demo
from serving.engine import vllm_app
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
    return "".join([event async for event in made]) if stream else made.model_dump_json()


async def instructions(work: Callable[[], Coroutine[Any, Any, str]]) -> int:
    """How many of Python's instructions the work takes; the same each time, unlike its seconds."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            count += 1
        return trace

    for _ in range(3):  # what is made once
        text = await work()
    sys.settrace(trace)
    try:
        text = await work()
    finally:
        sys.settrace(None)
    assert PIECES[-1] in text
    return count


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_chats_without_functions(client: ScriptedClient, stream: bool) -> None:
    without = await instructions(partial(answer, await state_of(client, False), stream))
    beside = await instructions(partial(answer, await state_of(client, True), stream))
    assert without > len(PIECES) * (100 if stream else 1)
    assert abs(beside / without - 1) <= MOST, (beside, without)
