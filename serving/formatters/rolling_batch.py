# SPDX-License-Identifier: Apache-2.0
"""LMI's rolling-batch answers, also `output_formatter` and `tgi_compat` in async mode (data/schemas.yaml of the tests).

One JSON object, or per token one JSON line or one server-sent event. Unlike async mode's own format: no newline at the
end, the key `log_prob`, `inputs` in the details, and no key without a value.
"""

import json
from collections.abc import Sequence
from typing import Any

from serving.formatters.base import EVENTS, JSON, JSON_LINES, Framing, finish_word, finite
from serving.schemas.generation import GenerationChunk, LmiRequest, Token


class RollingBatchFormatter:
    """The formats `json`, `jsonlines` and `sse`; the last one with `framing="events"`."""

    media_type = JSON

    def __init__(self, framing: Framing = "lines"):
        self.framing = framing
        self.stream_media_type = EVENTS if framing == "events" else JSON_LINES

    def whole(self, request: LmiRequest, answers: Sequence[Sequence[GenerationChunk]]) -> bytes:
        """One object, without a newline; in a list where the request was one, or where TGI would have one."""
        objects = [_answer(request, number, sequences) for number, sequences in enumerate(answers)]
        is_list = request.is_batch or request.tgi_keys
        return json.dumps(objects if is_list else objects[0], ensure_ascii=False).encode()

    def stream(self, request: LmiRequest) -> "RollingBatchStream":
        """A formatter for one stream."""
        return RollingBatchStream(request, self.framing)


class RollingBatchStream:
    """One stream; keeps the text for its last line."""

    def __init__(self, request: LmiRequest, framing: Framing):
        self._request = request
        self._before, self._behind = (b"data: ", b"\n\n") if framing == "events" else (b"", b"\n")
        self._texts: list[str] = []
        self._num_tokens = 0
        self._prompt_tokens: Sequence[Token] = ()
        self._top_tokens: list[Sequence[Token]] = []

    def step(self, chunk: GenerationChunk) -> bytes:
        """One object per new token; the last one carries the whole text and the details."""
        if chunk.index != 0:
            return b""
        request = self._request
        self._texts.append(chunk.text)
        self._num_tokens += chunk.num_tokens
        self._prompt_tokens = chunk.prompt_tokens or self._prompt_tokens
        self._top_tokens += chunk.top_tokens
        objects: list[dict[str, Any]] = [{"token": _token(token, request.tgi_keys)} for token in chunk.tokens]
        if chunk.finish_reason is not None:
            objects = objects or [{}]
            objects[-1]["generated_text"] = _full(request, 0, "".join(self._texts))
            if request.details:
                details = _details(request, 0, chunk, self._num_tokens)
                objects[-1]["details"] = details | _extras(request, self._prompt_tokens, self._top_tokens)
        data = [json.dumps(one, ensure_ascii=False).encode() for one in objects]
        return b"".join(self._before + one + self._behind for one in data)


def _answer(request: LmiRequest, number: int, sequences: Sequence[GenerationChunk]) -> dict[str, Any]:
    best, *others = [_sequence(request, number, chunk) for chunk in sequences]
    if others and request.details:
        inputs = best["details"]["inputs"]
        for one in others:
            del one["details"]["inputs"]
        sequences_of_others = [{**one["details"], "generated_text": one["generated_text"]} for one in others]
        best["details"] = {"inputs": inputs, **best["details"], "best_of_sequences": sequences_of_others}
    return best


def _sequence(request: LmiRequest, number: int, chunk: GenerationChunk) -> dict[str, Any]:
    answer: dict[str, Any] = {"generated_text": _full(request, number, "" if request.prompt_only else chunk.text)}
    if request.details:
        tokens = [] if request.prompt_only else [_token(token, request.tgi_keys) for token in chunk.tokens]
        details = _details(request, number, chunk, len(tokens) if request.prompt_only else chunk.num_tokens)
        answer["details"] = details | {"tokens": tokens} | _extras(request, chunk.prompt_tokens, chunk.top_tokens)
    return answer


def _full(request: LmiRequest, number: int, text: str) -> str:
    prompt = request.generations[number].prompt
    return f"{prompt}{text}" if request.return_full_text and isinstance(prompt, str) else text


def _details(request: LmiRequest, number: int, chunk: GenerationChunk, num_tokens: int) -> dict[str, Any]:
    return {
        "finish_reason": finish_word(chunk),
        "generated_tokens": num_tokens,
        "inputs": request.generations[number].prompt,
    }


def _extras(
    request: LmiRequest, prompt_tokens: Sequence[Token], top_tokens: Sequence[Sequence[Token]]
) -> dict[str, Any]:
    """Prompt tokens and most likely tokens, where they were asked for."""
    shown: dict[str, Any] = {}
    if prompt_tokens:
        shown["prefill"] = [_token(token, request.tgi_keys) for token in prompt_tokens]
    if request.top_n_tokens:
        shown["top_tokens"] = [[_token(token, request.tgi_keys) for token in step] for step in top_tokens]
    return shown


def _token(token: Token, tgi_keys: bool) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob" if tgi_keys else "log_prob": finite(token.logprob)}
