# SPDX-License-Identifier: Apache-2.0
"""LMI's async-mode answers: one JSON object, or one JSON line per token (tests/conformance/data/schemas.yaml).

Token lines are written from a template; only text and numbers are encoded per token.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

from serving.formatters.base import (
    JSON,
    JSON_LINES,
    Framing,
    best_with_others,
    finish_word,
    finite,
    number,
    pieces,
    tokens_to_show,
)
from serving.schemas.generation import GenerationChunk, LmiRequest, Token

_LINE = '{"index": %d, "token": {"id": %d, "text": %s, "logprob": %s}, "generated_text": %s, "details": %s}\n'
_END = "\n\n"
"""LMI ends a stream with two blank lines."""


class LmiFormatter:
    """The format of `/invocations` unless something else was asked for."""

    media_type = JSON
    stream_media_type = JSON_LINES
    framing: Framing = "lmi"

    def whole(self, request: LmiRequest, answers: Sequence[Sequence[GenerationChunk]]) -> bytes:
        """One object, or a list of them where the request was a list; ends with a newline."""
        objects = [
            best_with_others([_sequence(request, number, chunk) for chunk in sequences])
            for number, sequences in enumerate(answers)
        ]
        return json.dumps(objects if request.is_batch else objects[0], ensure_ascii=False).encode() + b"\n"

    def stream(self, request: LmiRequest) -> "LmiStream":
        """A formatter for one stream."""
        return LmiStream(request)


class LmiStream:
    """One stream of token lines; keeps the text of each choice for its last line."""

    def __init__(self, request: LmiRequest):
        prompt = request.generations[0].prompt
        self._request = request
        self._texts: dict[int, list[str]] = defaultdict(
            lambda: [prompt] if request.return_full_text and isinstance(prompt, str) else []
        )
        self._num_tokens: dict[int, int] = defaultdict(int)
        self._finished = 0

    def step(self, chunk: GenerationChunk) -> bytes:
        """One line per new token; a choice's last line carries its whole text and the details."""
        index = chunk.index
        self._texts[index].append(chunk.text)
        self._num_tokens[index] += chunk.num_tokens
        text, details = "null", "null"
        if len(chunk.tokens) == 1 and chunk.finish_reason is None:  # nearly always
            (token,) = chunk.tokens
            line = _LINE % (index, token.id, encode_basestring(chunk.text), number(token.logprob), text, details)
            return line.encode()
        tokens = tokens_to_show(chunk)
        last = len(tokens) - 1
        lines = []
        for position, (token, piece) in enumerate(zip(tokens, pieces(chunk.text, tokens), strict=True)):
            if position == last and chunk.finish_reason is not None:
                text, details = self._last(chunk)
            lines.append(_LINE % (index, token.id, encode_basestring(piece), number(token.logprob), text, details))
        if chunk.finish_reason is not None:
            self._finished += 1
            if self._finished == self._request.generations[0].fields.get("n", 1):
                lines.append(_END)
        return "".join(lines).encode()

    def _last(self, chunk: GenerationChunk) -> tuple[str, str]:
        text = encode_basestring("".join(self._texts[chunk.index]))
        if not self._request.details:
            return text, "null"
        return text, json.dumps(
            {
                "finish_reason": finish_word(chunk),
                "stop_reason": chunk.stop_reason,
                "seed": self._request.seed,
                "generated_tokens": self._num_tokens[chunk.index],
                "input_length": chunk.num_prompt_tokens,
            },
            ensure_ascii=False,
        )


def _sequence(request: LmiRequest, number: int, chunk: GenerationChunk) -> dict[str, Any]:
    prompt = request.generations[number].prompt
    text = "" if request.prompt_only else chunk.text
    full = request.return_full_text and isinstance(prompt, str)
    answer: dict[str, Any] = {"generated_text": f"{prompt}{text}" if full else text}
    if request.details:
        answer["details"] = {
            "finish_reason": finish_word(chunk),
            "stop_reason": chunk.stop_reason,
            "generated_tokens": 0 if request.prompt_only else chunk.num_tokens,
            "seed": request.seed,
            "prefill": [_token(token) for token in chunk.prompt_tokens],
            "tokens": [] if request.prompt_only else [_token(token) for token in chunk.tokens],
        }
        if request.top_n_tokens:
            answer["details"]["top_tokens"] = [[_token(token) for token in step] for step in chunk.top_tokens]
    return answer


def _token(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": finite(token.logprob)}
