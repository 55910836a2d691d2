# SPDX-License-Identifier: Apache-2.0
"""The neutral types between payload schemas, handlers, engine and formatters. They know no HTTP and no vLLM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to generate from.

    Attributes:
        prompt: text or token ids.
        fields: fields of vLLM's completion request in its own words (`max_tokens`, `temperature`, `stop`, ...); the
            engine validates them.
        stream: one chunk per engine step instead of one at the end.
        num_top_tokens: per token, how many of the most likely ones the chunks carry.
        model: a served model name or an adapter's name; None for the base model.
        request_id: the id in logs and answers.
        use_generation_config: what `fields` leaves open is taken from the model's generation config.
    """

    prompt: str | list[int]
    fields: Mapping[str, Any]
    stream: bool = False
    num_top_tokens: int = 0
    model: str | None = None
    request_id: str | None = None
    use_generation_config: bool = True


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A body in OpenAI's words, left to vLLM's own request models.

    Attributes:
        kind: which of vLLM's request models reads it.
        body: the decoded JSON object.
    """

    kind: Literal["completion", "chat", "embedding"]
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts to turn into vectors.

    Attributes:
        inputs: texts or token ids, one vector each.
        model: a served model name or an adapter's name; None for the base model.
        normalize: vectors have length one; None leaves it to the server.
        truncate: keep this many tokens of each input; -1 what the model takes; None refuses longer ones.
        dimensions: length of the vectors, for models that were trained for several.
    """

    inputs: Sequence[str | list[int]]
    model: str | None = None
    normalize: bool | None = None
    truncate: int | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class LmiRequest:
    """A body in LMI's words: one prompt or several, and what the answer shows.

    Attributes:
        generations: one per prompt, in order.
        is_batch: the body held a list, so the answer is one.
        return_full_text: the answer starts with the prompt.
        details: the answer lists tokens and why it ended.
        top_n_tokens: most likely tokens shown per position; 0 for none.
        seed: as given, for the details.
        output_format: key of `serving.formatters.registry.FORMATS`.
        num_sequences: how many sequences the answer shows per prompt, the best first.
        tgi_keys: tokens have TGI's key names.
        prompt_only: the answer is the prompt; what was generated is not shown.
    """

    generations: Sequence[GenerationRequest]
    is_batch: bool = False
    return_full_text: bool = False
    details: bool = False
    top_n_tokens: int = 0
    seed: int | None = None
    output_format: str = "lmi"
    num_sequences: int = 1
    tgi_keys: bool = False
    prompt_only: bool = False

    @property
    def stream(self) -> bool:
        """The client wants lines as they come."""
        return self.generations[0].stream


@dataclass(slots=True)
class Token:
    """One token.

    Attributes:
        id: vocabulary index.
        text: its text; empty where it is a part of a character.
        logprob: natural log of its probability; None where it was not asked for.
        is_special: it stands for no text of its own, as the end token does.
    """

    id: int
    text: str
    logprob: float | None
    is_special: bool = False


@dataclass(slots=True)
class GenerationChunk:
    """What one engine step (or, without stream, the whole generation) added to one choice.

    Attributes:
        index: number of the choice.
        text: new text; may lag behind the tokens while a stop string or a character is incomplete.
        tokens: new tokens; empty unless log-probabilities were asked for.
        num_tokens: how many tokens are new.
        finish_reason: `length`, `stop`, `abort`, ... on the last chunk, else None.
        stop_reason: the stop string or stop token id that ended it, if one did.
        num_prompt_tokens: length of the prompt.
        cumulative_logprob: of all tokens of the choice so far; None unless log-probabilities were asked for.
        top_tokens: per new token the most likely ones, the chosen one first; empty unless more than one was asked for.
        prompt_tokens: the prompt's tokens, the first without log-probability; empty unless asked for.
    """

    index: int
    text: str
    tokens: list[Token]
    num_tokens: int
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    num_prompt_tokens: int = 0
    cumulative_logprob: float | None = None
    top_tokens: Sequence[Sequence[Token]] = ()
    prompt_tokens: Sequence[Token] = ()
