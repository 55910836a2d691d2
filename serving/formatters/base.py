# SPDX-License-Identifier: Apache-2.0
"""What an output format is, and the words all formats share."""

from collections.abc import Sequence
from typing import Protocol

from serving.schemas.generation import GenerationChunk, LmiRequest

JSON = "application/json"
JSON_LINES = "application/jsonlines"

_LOWEST = -9999.0
"""What stands for a log-probability of minus infinity, which JSON cannot say; vLLM uses the same."""


class StreamFormatter(Protocol):
    """Formats one stream; made per request."""

    def step(self, chunk: GenerationChunk) -> bytes:
        """The bytes that one engine step adds; empty where there is nothing to say yet."""
        ...


class Formatter(Protocol):
    """One output format."""

    media_type: str
    stream_media_type: str

    def whole(self, request: LmiRequest, answers: Sequence[GenerationChunk]) -> bytes:
        """The body of an answer that is not streamed; one chunk per prompt, in order."""
        ...

    def stream(self, request: LmiRequest) -> StreamFormatter:
        """A formatter for one stream."""
        ...


def finish_word(chunk: GenerationChunk) -> str | None:
    """LMI's word for why a choice ended: `length`, `eos_token`, `stop_sequence`, or vLLM's own for the rest."""
    if chunk.finish_reason != "stop":
        return chunk.finish_reason
    return "eos_token" if chunk.stop_reason is None else "stop_sequence"


def finite(logprob: float | None) -> float | None:
    """A log-probability that JSON can say."""
    return None if logprob is None else max(logprob, _LOWEST)
