# SPDX-License-Identifier: Apache-2.0
"""What an output format is, and the words all formats share."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from serving.schemas.generation import GenerationChunk, LmiRequest, Token

JSON = "application/json"
JSON_LINES = "application/jsonlines"
EVENTS = "text/event-stream"

Framing = Literal["lmi", "lines", "events", "tgi"]
"""How a stream is cut into pieces: async mode's lines, rolling batch's lines, its events, TGI's events."""

_LOWEST = -9999.0
"""What stands for a log-probability of minus infinity, which JSON cannot say; vLLM uses the same."""

_NO_TOKEN = Token(-1, "", None)
"""On the last line of a stream that ended between two tokens, as an aborted one does; LMI uses the same number."""


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
    """A log-probability that JSON can say; one that is not a number is none that is worth showing either."""
    return None if logprob is None else logprob if logprob > _LOWEST else _LOWEST


def number(logprob: float | None) -> str:
    """A log-probability as JSON has it."""
    return "null" if logprob is None else repr(finite(logprob))


def tokens_to_show(chunk: GenerationChunk) -> Sequence[Token]:
    """The new tokens; for an end without one a token of number -1, because the end needs a line."""
    return chunk.tokens or ([_NO_TOKEN] if chunk.finish_reason is not None else [])


def best_with_others(sequences: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first of one prompt's answers; the others stand in its details, if it has any."""
    best, *others = sequences
    if others and "details" in best:
        rest = [{"generated_text": one["generated_text"], **one["details"]} for one in others]
        best["details"]["best_of_sequences"] = rest
    return best


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
