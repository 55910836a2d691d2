# SPDX-License-Identifier: Apache-2.0
"""vLLM's tool-call parsers, passed through by options: without one `auto` is refused, with one it is served."""

from collections.abc import Iterator

import httpx
import pytest

from serving import demo
from tests.e2e.process import LmiProcess

pytestmark = pytest.mark.long
QUESTION = "What is LoRA?"
TOOL = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True},
}
CHAT = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 60, "tools": [TOOL]}


@pytest.fixture(scope="module", params=["disable", "vllm"])
def server(request: pytest.FixtureRequest) -> Iterator[LmiProcess]:
    """The demo model with a parser, in async mode and in rolling batch."""
    env = {
        "OPTION_ENABLE_AUTO_TOOL_CHOICE": "true",
        "OPTION_TOOL_CALL_PARSER": "hermes",
        "OPTION_ROLLING_BATCH": request.param,
    }
    with LmiProcess(["--demo", "--port", "0"], env) as process:
        yield process


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions"])
def test_model_that_answers_in_text(server: LmiProcess, path: str) -> None:
    answer = httpx.post(f"{server.url}{path}", json=CHAT | {"tool_choice": "auto"}, timeout=60)
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == demo.answers()[QUESTION]
    assert not choice["message"].get("tool_calls")
