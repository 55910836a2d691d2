# SPDX-License-Identifier: Apache-2.0
"""TGI's answers: one object (in a list on `/`), or one server-sent event per token, without `[DONE]`.

Events are written from a template; only text and numbers are encoded per token.
"""

import json
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

from serving.formatters.base import (
    EVENTS,
    JSON,
    Framing,
    best_with_others,
    finish_word,
    finite,
    number,
    pieces,
    tokens_to_show,
)
from serving.schemas.generation import GenerationChunk, LmiRequest, Token

_EVENT = (
    'data:{"index": %d, "token": {"id": %d, "text": %s, "logprob": %s, "special": %s}%s, '
    '"generated_text": %s, "details": %s}\n\n'
)


class TgiFormatter:
    """The answers of `/generate` and `/generate_stream`, and with `in_list` those of `/`."""

    media_type = JSON
    stream_media_type = EVENTS
    framing: Framing = "tgi"

    def __init__(self, in_list: bool = False):
        self._in_list = in_list

    def whole(self, request: LmiRequest, answers: Sequence[Sequence[GenerationChunk]]) -> bytes:
        """The best sequence; the others stand in its details."""
        (sequences,) = answers
        best = best_with_others([_sequence(request, chunk) for chunk in sequences])
        return json.dumps([best] if self._in_list else best, ensure_ascii=False).encode()

    def stream(self, request: LmiRequest) -> "TgiStream":
        """A formatter for one stream."""
        return TgiStream(request)


class TgiStream:
    """One stream of token events; keeps the text for the last one."""

    def __init__(self, request: LmiRequest):
        self._request = request
        self._texts: list[str] = []
        self._num_tokens = 0

    def step(self, chunk: GenerationChunk) -> bytes:
        """One event per new token; the last one carries the whole text and the details."""
        self._texts.append(chunk.text)
        if len(chunk.tokens) == 1 and chunk.finish_reason is None and not self._request.top_n_tokens:  # nearly always
            (token,) = chunk.tokens
            self._num_tokens += 1
            return self._event(token, token.text if token.is_special else chunk.text).encode()
        tokens = tokens_to_show(chunk)
        last, text, details = len(tokens) - 1, "null", "null"
        events = []
        for position, (token, piece) in enumerate(zip(tokens, _texts(chunk.text, tokens), strict=True)):
            self._num_tokens += token.id >= 0
            if position == last and chunk.finish_reason is not None:
                text, details = encode_basestring("".join(self._texts)), _json(self._details(chunk))
            events.append(self._event(token, piece, self._top(chunk, position), text, details))
        return "".join(events).encode()

    def _event(self, token: Token, piece: str, top: str = "", text: str = "null", details: str = "null") -> str:
        special = "true" if token.is_special else "false"
        shown = (self._num_tokens, token.id, encode_basestring(piece), number(token.logprob), special)
        return _EVENT % (*shown, top, text, details)

    def _top(self, chunk: GenerationChunk, position: int) -> str:
        """The member with the likeliest tokens of a position, where the request asks for them."""
        if not self._request.top_n_tokens:
            return ""
        ranked = chunk.top_tokens[position] if position < len(chunk.top_tokens) else []
        return f', "top_tokens": {_json([_token(one, one.text) for one in ranked])}'

    def _details(self, chunk: GenerationChunk) -> dict[str, Any]:
        return {
            "finish_reason": finish_word(chunk),
            "generated_tokens": self._num_tokens,
            "input_length": chunk.num_prompt_tokens,
            "seed": self._request.seed,
        }


def _sequence(request: LmiRequest, chunk: GenerationChunk) -> dict[str, Any]:
    prompt = request.generations[0].prompt
    answer: dict[str, Any] = {"generated_text": f"{prompt}{chunk.text}" if request.return_full_text else chunk.text}
    if request.details:
        answer["details"] = {
            "finish_reason": finish_word(chunk),
            "generated_tokens": chunk.num_tokens,
            "seed": request.seed,
            "prefill": [
                {"id": token.id, "text": token.text, "logprob": finite(token.logprob)} for token in chunk.prompt_tokens
            ],
            "tokens": _tokens(chunk.text, chunk.tokens),
        }
        if request.top_n_tokens:
            answer["details"]["top_tokens"] = [[_token(one, one.text) for one in step] for step in chunk.top_tokens]
    return answer


def _tokens(text: str, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    return [_token(token, piece) for token, piece in zip(tokens, _texts(text, tokens), strict=True)]


def _texts(text: str, tokens: Sequence[Token]) -> list[str]:
    """A text per token; those of tokens that are not special join to `text`."""
    if not any(token.is_special for token in tokens):
        return pieces(text, tokens)
    texts = iter(pieces(text, [token for token in tokens if not token.is_special]))
    return [token.text if token.is_special else next(texts) for token in tokens]


def _token(token: Token, text: str) -> dict[str, Any]:
    return {"id": token.id, "text": text, "logprob": finite(token.logprob), "special": token.is_special}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
