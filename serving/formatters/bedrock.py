# SPDX-License-Identifier: Apache-2.0
"""LMI's third-party schema of `option.bedrock_compat`: a body with metering, whole or one JSON line per token."""

import json
from collections.abc import Sequence
from typing import Any

from serving.formatters.base import JSON, JSON_LINES, Framing, finish_word, tokens_to_show
from serving.schemas.generation import GenerationChunk, LmiRequest


class BedrockFormatter:
    """The format of that schema."""

    media_type = JSON
    stream_media_type = JSON_LINES
    framing: Framing = "lines"

    def whole(self, request: LmiRequest, answers: Sequence[Sequence[GenerationChunk]]) -> bytes:
        """One object, without a newline; the text starts with the prompt."""
        ((chunk, *_),) = answers
        text = f"{request.generations[0].prompt}{chunk.text}"
        return _object(text, chunk.num_prompt_tokens, chunk.num_tokens, finish_word(chunk))

    def stream(self, request: LmiRequest) -> "BedrockStream":
        """A formatter for one stream."""
        return BedrockStream()


class BedrockStream:
    """One stream; counts tokens, and says the prompt's on its first line alone."""

    def __init__(self) -> None:
        self._num_tokens = 0

    def step(self, chunk: GenerationChunk) -> bytes:
        """One line per new token."""
        lines = []
        tokens = tokens_to_show(chunk)
        for position, token in enumerate(tokens):
            prompt = chunk.num_prompt_tokens if self._num_tokens == 0 else None
            self._num_tokens += token.id >= 0
            is_last = position == len(tokens) - 1
            lines.append(_object(token.text, prompt, self._num_tokens, finish_word(chunk) if is_last else None) + b"\n")
        return b"".join(lines)


def _object(text: str, num_prompt_tokens: int | None, num_tokens: int, reason: str | None) -> bytes:
    body = {
        "generation": text,
        "prompt_token_count": num_prompt_tokens,
        "generation_token_count": num_tokens,
        "stop_reason": reason,
    }
    metering: dict[str, Any] = {} if num_prompt_tokens is None else {"inputTokenCount": num_prompt_tokens}
    answer = {"body": body, "metering": metering | {"outputTokenCount": num_tokens}, "content_type": JSON}
    return json.dumps(answer, ensure_ascii=False).encode()
