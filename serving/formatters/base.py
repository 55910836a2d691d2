# SPDX-License-Identifier: Apache-2.0
"""What an output format is, and the words all formats share."""

from collections.abc import Sequence
from typing import Literal, Protocol

from serving.schemas.generation import GenerationChunk, LmiRequest, Token

JSON = "application/json"
JSON_LINES = "application/jsonlines"
EVENTS = "text/event-stream"

Framing = Literal["lmi", "lines", "events", "tgi"]
"""How a stream is cut into pieces: async mode's lines, rolling batch's lines, its events, TGI's events."""

_LOWEST = -9999.0
"""What stands for a log-probability of minus infinity, which JSON cannot say; vLLM uses the same."""


class StreamFormatter(Protocol):
    """Formats one stream; made per request."""

    def step(self, chunk: GenerationChunk) -> bytes:
        """The bytes that one engine step adds; empty where there is nothing to say yet."""
        ...


class Formatter(Protocol):
    """One output format.

    Attributes:
        media_type: of an answer that is not streamed.
        stream_media_type: of a stream.
        framing: how a stream says that it failed (`serving.error_responses`).
    """

    media_type: str
    stream_media_type: str
    framing: Framing

    def whole(self, request: LmiRequest, answers: Sequence[Sequence[GenerationChunk]]) -> bytes:
        """The body of an answer that is not streamed: per prompt, in order, its sequences, the best first."""
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


def pieces(text: str, tokens: Sequence[Token]) -> list[str]:
    """`text`, split over its tokens so that the pieces join to it exactly.

    A token whose own text does not come next, such as half a character, gets an empty piece; what lies before the next
    token that does goes to the one before it.
    """
    if len(tokens) == 1:
        return [text]
    found: list[str] = []
    rest = text
    for token in tokens:
        start = rest.find(token.text) if token.text and "\N{REPLACEMENT CHARACTER}" not in token.text else -1
        if start < 0 or (start > 0 and not found):
            found.append("")
            continue
        if start > 0:
            found[-1] += rest[:start]
        found.append(token.text)
        rest = rest[start + len(token.text) :]
    if found:
        found[-1] += rest
    return found
