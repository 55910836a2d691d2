# SPDX-License-Identifier: Apache-2.0
"""LMI's rolling-batch answers: one JSON object, or one JSON line per token (tests/conformance/data/schemas.yaml).

Unlike async mode's: no newline at the end, the key `log_prob`, `inputs` in the details, and no key without a value.
"""

import json
from collections.abc import Sequence
from typing import Any

from serving.formatters.base import JSON, JSON_LINES, finish_word, finite
from serving.schemas.generation import GenerationChunk, LmiRequest, Token


class RollingBatchFormatter:
    """The format of rolling-batch mode unless something else was asked for."""

    media_type = JSON
    stream_media_type = JSON_LINES

    def whole(self, request: LmiRequest, answers: Sequence[GenerationChunk]) -> bytes:
        """One object, without a newline."""
        (chunk,) = answers
        answer: dict[str, Any] = {"generated_text": _full(request, chunk.text)}
        if request.details:
            details = _details(request, chunk, chunk.num_tokens)
            answer["details"] = (
                details
                | {"tokens": [_token(token) for token in chunk.tokens]}
                | _extras(request, chunk.prompt_tokens, chunk.top_tokens)
            )
        return json.dumps(answer, ensure_ascii=False).encode()

    def stream(self, request: LmiRequest) -> "RollingBatchStream":
        """A formatter for one stream."""
        return RollingBatchStream(request)


class RollingBatchStream:
    """One stream of token lines; keeps the text for the last one."""

    def __init__(self, request: LmiRequest):
        self._request = request
        self._texts: list[str] = []
        self._num_tokens = 0
        self._prompt_tokens: list[Token] = []
        self._top_tokens: list[list[Token]] = []

    def step(self, chunk: GenerationChunk) -> bytes:
        """One line per new token; the last one carries the whole text and the details."""
        self._texts.append(chunk.text)
        self._num_tokens += chunk.num_tokens
        self._prompt_tokens = chunk.prompt_tokens or self._prompt_tokens
        self._top_tokens += chunk.top_tokens
        lines: list[dict[str, Any]] = [{"token": _token(token)} for token in chunk.tokens]
        if chunk.finish_reason is not None:
            last = lines[-1] if lines else {}
            last["generated_text"] = _full(self._request, "".join(self._texts))
            if self._request.details:
                last["details"] = _details(self._request, chunk, self._num_tokens) | _extras(
                    self._request, self._prompt_tokens, self._top_tokens
                )
            lines = lines or [last]
        return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def _full(request: LmiRequest, text: str) -> str:
    return f"{request.generations[0].prompt}{text}" if request.return_full_text else text


def _details(request: LmiRequest, chunk: GenerationChunk, num_tokens: int) -> dict[str, Any]:
    return {
        "finish_reason": finish_word(chunk),
        "generated_tokens": num_tokens,
        "inputs": request.generations[0].prompt,
    }


def _extras(
    request: LmiRequest, prompt_tokens: Sequence[Token], top_tokens: Sequence[Sequence[Token]]
) -> dict[str, Any]:
    """Prompt tokens and most likely tokens, where they were asked for."""
    shown: dict[str, Any] = {}
    if prompt_tokens:
        shown["prefill"] = [_token(token) for token in prompt_tokens]
    if request.top_n_tokens:
        shown["top_tokens"] = [[_token(token) for token in step] for step in top_tokens]
    return shown


def _token(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "log_prob": finite(token.logprob)}
