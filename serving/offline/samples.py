# SPDX-License-Identifier: Apache-2.0
"""What comes back: every sample of every prompt, and the convenience that unwraps them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


class IncompleteOutput(ValueError):
    """A value was asked for, and its answer was cut before it was whole."""

    def __init__(self, sample: "Sample", reason: str):
        super().__init__(
            f"the answer ended after {len(sample.token_ids)} tokens ({sample.finish_reason}) before it was whole: "
            f"{sample.text!r} ({reason}); a larger max_tokens may help"
        )
        self.sample = sample


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to one prompt.

    Attributes:
        text: without stop strings, and without special tokens unless they were asked for.
        token_ids: of the answer.
        finish_reason: `stop`, `length` or `abort`.
        stop_reason: the stop string or token id that ended it; None for the end token.
        cumulative_logprob: of the whole answer, where log-probabilities were asked for or samples were ranked.
        logprobs: vLLM's, one mapping of token id to `Logprob` for each token, where they were asked for.
        num_prompt_tokens: of the prompt.
        prompt_logprobs: vLLM's, where they were asked for.
        read: the text to its value.
    """

    text: str
    token_ids: Sequence[int]
    finish_reason: str | None
    stop_reason: str | int | None = None
    cumulative_logprob: float | None = None
    logprobs: Any = field(default=None, repr=False)
    num_prompt_tokens: int = 0
    prompt_logprobs: Any = field(default=None, repr=False)
    read: Callable[[str], Any] = field(default=str, repr=False, compare=False)

    @property
    def value(self) -> Any:
        """The answer as its output type says.

        Raises:
            IncompleteOutput: it was cut.
        """
        try:
            return self.read(self.text)
        except ValueError as error:  # pydantic's and json's as well
            raise IncompleteOutput(self, " ".join(str(error).split())) from None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one engine step added to one sample of a stream.

    Attributes:
        text: what is new.
        token_ids: what is new.
        index: of the sample, where there are several.
        finish_reason: in the last piece of a sample; None before.
    """

    text: str
    token_ids: Sequence[int]
    index: int = 0
    finish_reason: str | None = None


def samples_of(output: Any, count: int, read: Callable[[str], Any]) -> list[Sample]:
    """The `count` best samples of vLLM's finished `RequestOutput`; the best first where some are left out."""
    choices = list(output.outputs)
    if len(choices) > count:
        choices.sort(key=lambda choice: choice.cumulative_logprob or 0.0, reverse=True)
    return [
        Sample(
            text=choice.text,
            token_ids=tuple(choice.token_ids),
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
            cumulative_logprob=choice.cumulative_logprob,
            logprobs=choice.logprobs,
            num_prompt_tokens=len(output.prompt_token_ids or ()),
            prompt_logprobs=output.prompt_logprobs,
            read=read,
        )
        for choice in choices[:count]
    ]


def unwrapped(answers: Sequence[Sequence[Sample]], is_batch: bool) -> Any:
    """The values: of one prompt and one sample the value itself, a list where there are several of either."""
    values = [samples[0].value if len(samples) == 1 else [sample.value for sample in samples] for samples in answers]
    return values if is_batch else values[0]
