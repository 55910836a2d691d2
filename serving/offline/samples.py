# SPDX-License-Identifier: Apache-2.0
"""What comes back: every sample of every prompt, and the convenience that unwraps them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.offline.output_types import TEXT, OutputType


class IncompleteOutput(ValueError):
    """A value was asked for, and its answer was cut before it was whole."""

    def __init__(self, sample: "Sample"):
        super().__init__(
            f"the answer ended after {len(sample.token_ids)} tokens ({sample.finish_reason}) before it was whole: "
            f"{sample.text!r}; a larger max_tokens may help"
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
        output_type: what the text is.
    """

    text: str
    token_ids: Sequence[int]
    finish_reason: str | None
    stop_reason: str | int | None = None
    cumulative_logprob: float | None = None
    logprobs: Any = field(default=None, repr=False)
    num_prompt_tokens: int = 0
    prompt_logprobs: Any = field(default=None, repr=False)
    output_type: OutputType = field(default=TEXT, repr=False, compare=False)

    @property
    def value(self) -> Any:
        """The answer as its output type says.

        Raises:
            IncompleteOutput: it was cut.
            ValueError: pydantic's, for a whole answer that a validator of the type refuses.
        """
        is_ended = self.finish_reason == "stop"
        if not is_ended and not self.output_type.may_end(self.text):
            raise IncompleteOutput(self)
        try:
            return self.output_type.read(self.text)
        except ValueError:  # pydantic's and json's as well
            if is_ended:
                raise
            raise IncompleteOutput(self) from None


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


def samples_of(output: Any, count: int, is_ranked: bool, output_type: OutputType) -> list[Sample]:
    """The first `count` samples of vLLM's finished `RequestOutput`, or the best ones, the best first."""
    choices = list(output.outputs)
    if is_ranked:
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
            output_type=output_type,
        )
        for choice in choices[:count]
    ]


def unwrapped(answers: Sequence[Sequence[Sample]], is_batch: bool) -> Any:
    """The values: of one prompt and one sample the value itself, a list where there are several of either."""
    values = [samples[0].value if len(samples) == 1 else [sample.value for sample in samples] for samples in answers]
    return values if is_batch else values[0]
