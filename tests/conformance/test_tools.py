# SPDX-License-Identifier: Apache-2.0
"""Rows about a tool parser that is configured: what it makes of a request before the engine sees it."""

from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import ParserManager

from serving import demo
from tests.conformance.cases import Case, cases

pytestmark = pytest.mark.vllm
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CHOICES: dict[str, Any] = {"named": {"type": "function", "function": {"name": "f"}}}


@pytest.mark.parametrize("case", cases("schemas", "parser"), ids=str)
def test_case(case: Case, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    choice = case.given["choice"]
    body = {"messages": [], "tools": [TOOL], "tool_choice": CHOICES.get(choice, choice)}
    request = ChatCompletionRequest.model_validate(body)
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    parser = ParserManager.get_parser("hermes", enable_auto_tools=True)
    assert parser is not None
    adjusted = parser(tokenizer, request.tools).adjust_request(request)
    params = adjusted.to_sampling_params(9, {})
    for name, value in case.expect.get("engine", {}).items():
        assert getattr(params, name) == value
    assert (params.structured_outputs is not None) == case.expect.get("is_constrained", False)
