# SPDX-License-Identifier: Apache-2.0
"""vLLM's output of one engine step to the neutral chunk. Called per step and stream; imports nothing of vLLM."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.schemas.generation import GenerationChunk, Token


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What chunks need to know of the tokenizer.

    Attributes:
        special_ids: tokens that stand for no text.
        end_ids: tokens that end an answer of themselves; vLLM tells only one of them from a client's stop token.
        decode: token ids to text.
    """

    special_ids: frozenset[int]
    end_ids: frozenset[int]
    decode: Callable[[Sequence[int]], str]


def chunk(
    output: Any, choice: Any, num_top_tokens: int, vocabulary: Vocabulary, stop_ids: Container[int] = ()
) -> GenerationChunk:
    """The chunk of one choice.

    Args:
        output: vLLM's `RequestOutput`.
        choice: one of its `CompletionOutput`s, a delta or the whole; its log-probabilities are vLLM's, or `Token`s
            where `vllm_tokens.py` made them.
        num_top_tokens: how many of the most likely tokens the answer shows; 0 for none.
        stop_ids: tokens that the request itself stops at.
        vocabulary: names the first prompt token, of which vLLM gives the id alone, and tells special tokens.
    """
    top_tokens: list[list[Token]] = []
    tokens: list[Token] = []
    if choice.logprobs and type(choice.logprobs[0]) is Token:
        tokens = choice.logprobs
    elif choice.logprobs:
        # A beam that ended with the end token has a log-probability for it, too.
        for token_id, ranked in zip(choice.token_ids, choice.logprobs, strict=False):
            tokens.append(_token(token_id, ranked, vocabulary))
            if num_top_tokens:
                top_tokens.append(_top(token_id, ranked, num_top_tokens, vocabulary))
    made = GenerationChunk(
        index=choice.index,
        text=choice.text,
        tokens=tokens,
        num_tokens=len(choice.token_ids),
        finish_reason=choice.finish_reason,
        stop_reason=stop_reason(choice.stop_reason, vocabulary, stop_ids),
        num_prompt_tokens=len(output.prompt_token_ids or ()),
        cumulative_logprob=choice.cumulative_logprob,
        top_tokens=top_tokens or (),
    )
    if output.prompt_logprobs and output.prompt_token_ids:
        pairs = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
        made.prompt_tokens = [_token(token_id, ranked, vocabulary) for token_id, ranked in pairs]
    return made


def stop_reason(reason: str | int | None, vocabulary: Vocabulary, stop_ids: Container[int]) -> str | int | None:
    """What the request itself stopped at, of what vLLM says: the end of the answer is no such thing."""
    return None if isinstance(reason, int) and reason in vocabulary.end_ids and reason not in stop_ids else reason


def _top(chosen: int, ranked: Mapping[int, Any], count: int, vocabulary: Vocabulary) -> list[Token]:
    """The chosen token first, then the `count` most likely ones without it."""
    best = sorted(ranked, key=lambda token_id: ranked[token_id].logprob, reverse=True)[:count]
    return [
        _token(token_id, ranked, vocabulary) for token_id in (chosen, *(other for other in best if other != chosen))
    ]


def _token(token_id: int, ranked: Mapping[int, Any] | None, vocabulary: Vocabulary) -> Token:
    """The token with what vLLM knows of it: no log-probability for the first prompt token, no text in beam search."""
    known = ranked[token_id] if ranked is not None else None
    text = known.decoded_token if known is not None else None
    if text is None:
        text = vocabulary.decode([token_id])
    return Token(token_id, text, known.logprob if known is not None else None, token_id in vocabulary.special_ids)
