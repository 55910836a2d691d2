# SPDX-License-Identifier: Apache-2.0
"""Requests and generated text as objects, from LMI's rolling batch; `model.py` files import and subclass them.

The server does not build them: the engine's answers are vLLM's own objects.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Token:
    """One generated token.

    Attributes:
        log_prob: natural logarithm of its probability.
        special_token: it is none of the text's own.
        error_msg: why generation ended at this token.
        request_id: set by whoever batches.
    """

    def __init__(
        self,
        id: int,
        text: str,
        log_prob: float | None = None,
        special_token: bool | None = None,
        error_msg: str | None = None,
    ):
        self.id = id
        self.text = text
        self.log_prob = log_prob
        self.special_token = special_token
        self.error_msg = error_msg
        self.request_id: Any = None

    def as_dict(self) -> dict[str, Any]:
        """LMI's names: `id`, `text`, `log_prob`; `special_token` and `error_msg` where they say something."""
        shown: dict[str, Any] = {"id": self.id, "text": self.text, "log_prob": self.log_prob}
        if self.special_token:
            shown["special_token"] = self.special_token
        if self.error_msg:
            shown["error_msg"] = self.error_msg
        return shown

    def as_tgi_dict(self) -> dict[str, Any]:
        """TGI's names: `id`, `text`, `logprob`; `special` where it is."""
        shown: dict[str, Any] = {"id": self.id, "text": self.text, "logprob": self.log_prob}
        if self.special_token:
            shown["special"] = self.special_token
        return shown


@dataclass
class Sequence:
    """One generated sequence, read once from its start.

    Attributes:
        top_tokens: per position, the likeliest tokens.
        cumulative_log_prob: sum over its tokens.
    """

    tokens: list[Token] = field(default_factory=list)
    top_tokens: list[list[Token]] = field(default_factory=list)
    cumulative_log_prob: float = 0.0
    finish_reason: str | None = None
    stop_reason: str | None = None
    _last_index: int | None = field(default=None, repr=False)
    _next_token: int = field(default=0, repr=False)
    _next_top_tokens: int = field(default=0, repr=False)

    def set_next_token(self, token: Token, is_last_token: bool = False) -> None:
        """Appends a token."""
        self.tokens.append(token)
        if is_last_token:
            self._last_index = len(self.tokens) - 1

    def set_next_top_tokens(self, top_tokens: list[Token]) -> None:
        """Appends the likeliest tokens of one position."""
        self.top_tokens.append(top_tokens)

    def has_next_token(self) -> bool:
        """A token was not read yet."""
        return self._next_token < len(self.tokens)

    def num_unread_tokens(self) -> int:
        """How many tokens were not read yet."""
        return len(self.tokens) - self._next_token

    def has_next_top_tokens(self) -> bool:
        """The likeliest tokens of a position were not read yet."""
        return self._next_top_tokens < len(self.top_tokens)

    def get_next_token(self) -> tuple[Token | None, int, bool, bool]:
        """Reads on: the token, its index, whether it is the first and whether the last; without one a None."""
        if not self.has_next_token():
            return None, 0, False, False
        index = self._next_token
        self._next_token += 1
        return self.tokens[index], index, index == 0, index == self._last_index

    def get_next_top_tokens(self) -> tuple[list[Token] | None, int, bool, bool]:
        """Reads on, as `get_next_token` does."""
        if not self.has_next_top_tokens():
            return None, 0, False, False
        index = self._next_top_tokens
        self._next_top_tokens += 1
        return self.top_tokens[index], index, index == 0, index == self._last_index

    def get_last_token(self) -> Token | None:
        """The last token, once it is known to be the last."""
        return None if self._last_index is None else self.tokens[self._last_index]


@dataclass
class RequestInput:
    """What every request has.

    Attributes:
        output_formatter: the name of a built-in format, or a function.
        parameters: what the client asked for.
        server_parameters: `parameters` with what the server added.
        tgi_compat: answers look as TGI's do.
    """

    request_id: Any = None
    client_request_id: str | None = None
    output_formatter: str | Callable[..., Any] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    server_parameters: dict[str, Any] = field(default_factory=dict)
    tgi_compat: bool = False


@dataclass
class TextInput(RequestInput):
    """A request for text."""

    input_text: Any = None
    adapters: Any = None
    tokenizer: Any = None


@dataclass
class RequestOutput:
    """The answer to one request."""

    request_id: Any
    input: Any
    finished: bool = False


@dataclass
class TextGenerationOutput(RequestOutput):
    """Generated text.

    Attributes:
        sequences: by index; there is one at first.
        best_sequence_index: the one to show.
        other_sequences_indices: the rest, where several were asked for.
    """

    sequences: dict[int, Sequence] = field(default_factory=lambda: {0: Sequence()})
    best_sequence_index: int = 0
    prompt_tokens_details: list[Token] = field(default_factory=list)
    other_sequences_indices: list[int] = field(default_factory=list)

    def set_next_token(
        self, token: Token, sequence_index: int = 0, is_last_token: bool = False, finish_reason: str | None = None
    ) -> None:
        """Appends a token to a sequence, which begins with its first token; the last token of the best one ends all."""
        sequence = self.sequences.setdefault(sequence_index, Sequence())
        sequence.set_next_token(token, is_last_token)
        if finish_reason:
            self.set_finish_reason(finish_reason, sequence_index)
        if is_last_token and sequence_index == self.best_sequence_index:
            self.finished = True

    def set_finish_reason(self, finish_reason: str, sequence_index: int = 0) -> None:
        """Says why a sequence ended."""
        self.sequences[sequence_index].finish_reason = finish_reason

    def set_best_sequence_index(self, sequence_index: int) -> None:
        """Chooses the sequence to show."""
        self.best_sequence_index = sequence_index

    def set_next_top_tokens(self, top_tokens: list[Token], sequence_index: int = 0) -> None:
        """Appends the likeliest tokens of one position to a sequence."""
        self.sequences.setdefault(sequence_index, Sequence()).set_next_top_tokens(top_tokens)

    def get_tokens_as_dict(self, sequence_index: int = 0) -> list[dict[str, Any]]:
        """The tokens of a sequence by LMI's names."""
        return [token.as_dict() for token in self.sequences[sequence_index].tokens]

    def get_prompt_tokens_as_dict(self) -> list[dict[str, Any]]:
        """The tokens of the prompt by LMI's names."""
        return [token.as_dict() for token in self.prompt_tokens_details]

    def get_top_tokens_as_dict(self, sequence_index: int = 0) -> list[list[dict[str, Any]]]:
        """The likeliest tokens of a sequence by LMI's names, per position."""
        return [[token.as_dict() for token in position] for position in self.sequences[sequence_index].top_tokens]
