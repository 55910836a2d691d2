# SPDX-License-Identifier: Apache-2.0
"""vLLM's outputs to chunks: names of tokens that vLLM leaves out, and why an answer ended."""

from types import SimpleNamespace
from typing import Any

import pytest

from serving.engine.chunks import Vocabulary, chunk

pytestmark = pytest.mark.pure
VOCABULARY = Vocabulary(frozenset({2}), frozenset({2, 106}), lambda ids: "".join(f"<{one}>" for one in ids))


def output(**given: Any) -> tuple[SimpleNamespace, SimpleNamespace]:
    """vLLM's output with one choice."""
    neutral = {"index": 0, "text": "x", "token_ids": [5], "finish_reason": "stop", "stop_reason": None,
               "logprobs": None, "cumulative_logprob": None}  # fmt: skip
    prompt = SimpleNamespace(prompt_token_ids=[8, 9], prompt_logprobs=given.pop("prompt_logprobs", None))
    return prompt, SimpleNamespace(**neutral | given)


def logprob(value: float, text: str | None) -> SimpleNamespace:
    return SimpleNamespace(logprob=value, decoded_token=text)


@pytest.mark.parametrize(
    ("given", "stop_ids", "shown"),
    [(None, (), None), ("word", (), "word"), (2, (), None), (106, (), None), (106, [106], 106), (7, [7], 7)],
)
def test_stop_reason(given: Any, stop_ids: Any, shown: Any) -> None:
    """A model may have several end tokens; vLLM reports all but one of them as if the client had asked for them."""
    assert chunk(*output(stop_reason=given), 0, VOCABULARY, stop_ids).stop_reason == shown


def test_tokens() -> None:
    ranked = [{5: logprob(-0.5, "five"), 6: logprob(-1.5, "six")}, {2: logprob(-0.1, None)}]
    made = chunk(*output(token_ids=[5, 2], logprobs=ranked), 2, VOCABULARY)
    assert [(token.id, token.text, token.is_special) for token in made.tokens] == [(5, "five", False), (2, "<2>", True)]
    assert [[token.id for token in step] for step in made.top_tokens] == [[5, 6], [2]]


def test_beam_that_ended_has_one_more_log_probability() -> None:
    made = chunk(*output(token_ids=[5], logprobs=[{5: logprob(-0.5, None)}, {2: logprob(-0.1, None)}]), 0, VOCABULARY)
    assert [token.text for token in made.tokens] == ["<5>"]


def test_first_prompt_token_has_a_text_and_no_log_probability() -> None:
    made = chunk(*output(prompt_logprobs=[None, {9: logprob(-0.5, "nine")}]), 0, VOCABULARY)
    assert [(token.text, token.logprob) for token in made.prompt_tokens] == [("<8>", None), ("nine", -0.5)]
