# SPDX-License-Identifier: Apache-2.0
"""Rows about a tool parser that is configured: what it makes of a request before the engine sees it."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import ParserManager

from serving import demo
from serving.config.host import Host
from serving.config.resolve import resolve
from serving.engine import vllm_tools
from serving.engine.engine_args import namespace
from tests.conformance.cases import Case, cases

pytestmark = pytest.mark.vllm
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CHOICES: dict[str, Any] = {"named": {"type": "function", "function": {"name": "f"}}}


def configured() -> Namespace:
    """What a start with a parser comes to, once the fallback had its chance."""
    env = {"OPTION_TOOL_CALL_PARSER": "hermes", "OPTION_ENABLE_AUTO_TOOL_CHOICE": "true"}
    args = namespace(resolve(env, [str(demo.MODEL_DIR)], Host(), demo.MODEL_DIR).vllm_arguments)
    config = SimpleNamespace(hf_config=SimpleNamespace(model_type="llama"))
    vllm_tools.install(args, SimpleNamespace(renderer=SimpleNamespace(tokenizer=None), model_config=config))
    return args


@pytest.mark.parametrize("case", cases("schemas", "parser"), ids=str)
def test_case(case: Case, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    choice = case.given["choice"]
    body = {"messages": [], "tools": [TOOL], "tool_choice": CHOICES.get(choice, choice)}
    request = ChatCompletionRequest.model_validate(body)
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    args = configured()
    parser = ParserManager.get_parser(args.tool_call_parser, enable_auto_tools=args.enable_auto_tool_choice)
    assert parser is not None
    adjusted = parser(tokenizer, request.tools).adjust_request(request)
    params = adjusted.to_sampling_params(9, {})
    for name, value in case.expect.get("engine", {}).items():
        assert getattr(params, name) == value
    assert (params.structured_outputs is not None) == case.expect.get("is_constrained", False)
