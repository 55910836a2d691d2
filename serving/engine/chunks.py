# SPDX-License-Identifier: Apache-2.0
"""vLLM's output of one engine step to the neutral chunk. Called per step and stream; imports nothing of vLLM."""

from collections.abc import Mapping
from typing import Any

from serving.schemas.generation import GenerationChunk, Token


def chunk(output: Any, choice: Any, num_top_tokens: int) -> GenerationChunk:
    """The chunk of one choice.

    Args:
        output: vLLM's `RequestOutput`.
        choice: one of its `CompletionOutput`s, a delta or the whole.
        num_top_tokens: how many of the most likely tokens the answer shows; 0 for none.
    """
    made = GenerationChunk(
        index=choice.index,
        text=choice.text,
        tokens=[],
        num_tokens=len(choice.token_ids),
        finish_reason=choice.finish_reason,
        stop_reason=choice.stop_reason,
        num_prompt_tokens=len(output.prompt_token_ids or ()),
    )
    if choice.logprobs:
        for token_id, ranked in zip(choice.token_ids, choice.logprobs, strict=True):
            made.tokens.append(_token(token_id, ranked))
            if num_top_tokens:
                made.top_tokens.append(_top(token_id, ranked, num_top_tokens))
    if output.prompt_logprobs and output.prompt_token_ids:
        pairs = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
        made.prompt_tokens = [_token(token_id, ranked) for token_id, ranked in pairs]
    return made


def _top(chosen: int, ranked: Mapping[int, Any], count: int) -> list[Token]:
    """The chosen token first, then the `count` most likely ones without it."""
    best = sorted(ranked, key=lambda token_id: ranked[token_id].logprob, reverse=True)[:count]
    return [_token(token_id, ranked) for token_id in (chosen, *(other for other in best if other != chosen))]


def _token(token_id: int, ranked: Mapping[int, Any] | None) -> Token:
    """The token with what vLLM knows of it; the first prompt token has no log-probability."""
    if ranked is None:
        return Token(token_id, "", None)
    known = ranked[token_id]
    return Token(token_id, known.decoded_token or "", known.logprob)
