# SPDX-License-Identifier: Apache-2.0
"""Sampling parameters of a call without a server: an object of vLLM's, keywords, or both. Used by `vllm_offline.py`."""

import copy
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from vllm.sampling_params import BeamSearchParams, SamplingParams, StructuredOutputsParams

from serving.engine.vllm_errors import user_errors
from serving.engine.vllm_json import GRAMMAR_BACKENDS, compact_json
from serving.errors import PayloadError

logger = logging.getLogger(__name__)

_INTERNAL = frozenset({"output_kind", "output_text_buffer_length", "skip_clone"})
_FIELDS = frozenset(
    name for name in SamplingParams.__struct_fields__ if not name.startswith("_") and name not in _INTERNAL
)
_BEAM_FIELDS = frozenset(BeamSearchParams.__struct_fields__) - {"beam_width", "structured_outputs"}
_OURS = frozenset({"best_of", "use_beam_search", "length_penalty", "early_stopping"})
"""What vLLM's class no longer has."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to answer each prompt of a call.

    Attributes:
        params: for the engine; nobody else has this object.
        count: how many samples the user gets, the best of those that are made.
    """

    params: SamplingParams | BeamSearchParams
    count: int

    @property
    def is_ranked(self) -> bool:
        """More samples are made than the user gets; beams come ranked."""
        return isinstance(self.params, SamplingParams) and self.params.n > self.count


def sampling_of(model_config: Any, backend: str) -> Callable[[Any, Mapping[str, Any], Mapping[str, Any]], Sampling]:
    """`sampling` for one model, whose generation config is read once.

    Args:
        model_config: vLLM's.
        backend: for structured outputs.
    """
    defaults = model_config.get_diff_sampling_param()
    return partial(sampling, defaults=defaults, writes_grammar=backend in GRAMMAR_BACKENDS)


def sampling(
    given: SamplingParams | BeamSearchParams | Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
    constraint: Mapping[str, Any],
    defaults: Mapping[str, Any],
    writes_grammar: bool = True,
) -> Sampling:
    """The parameters of one call.

    Args:
        given: the user's object, which stays as it is; what it sets wins over keywords.
        keywords: fields of `SamplingParams`, and `best_of`, `use_beam_search`, `length_penalty`, `early_stopping`; None
            is not set.
        constraint: fields of `StructuredOutputsParams`, from the output type; empty for none.
        defaults: of the model's generation config, which count where no `SamplingParams` is given.
        writes_grammar: as for `compact_json`.

    Raises:
        PayloadError: a name that there is not, values that exclude each other, or one that vLLM refuses.
    """
    fields = {name: value for name, value in keywords.items() if value is not None}
    if unknown := sorted(fields.keys() - _FIELDS - _OURS):
        raise PayloadError(f"vLLM has no sampling parameter {', '.join(unknown)}")
    if isinstance(given, BeamSearchParams):
        if fields or constraint:
            other = ", ".join(sorted(fields)) or "an output type"
            raise PayloadError(f"{other} has no effect beside BeamSearchParams; use_beam_search=True takes keywords")
        return Sampling(copy.deepcopy(given), given.beam_width)
    if isinstance(given, Mapping):
        return sampling(None, {**keywords, **given}, constraint, defaults, writes_grammar)
    if given is not None:
        fields |= _set_in(given, fields)
    if early := fields.pop("early_stopping", None):
        logger.warning("early_stopping=%s has no effect: vLLM's beams end when all of them have", early)
    count, made = fields.pop("n", 1), fields.pop("best_of", None)
    made = count if made is None else made
    if made < count:
        raise PayloadError(f"best_of={made} must be at least n={count}")
    if fields.pop("use_beam_search", False):
        return Sampling(_beams(fields, made, constraint), count)
    if "length_penalty" in fields:
        raise PayloadError("length_penalty is for beams: it needs use_beam_search=True")
    if given is None:
        # As much as fits: a script has no reason to stop after vLLM's 16 tokens.
        fields = {"max_tokens": None, **defaults, **fields}
    if constraint:
        if "structured_outputs" in fields:
            raise PayloadError("an output type and structured_outputs exclude each other")
        fields["structured_outputs"] = _constraint(constraint, writes_grammar)
    elif isinstance(outputs := fields.get("structured_outputs"), Mapping):
        fields["structured_outputs"] = _constraint(dict(outputs), writes_grammar)
    if made > count and "logprobs" not in fields:
        fields["logprobs"] = 0  # samples are ranked by them
    with user_errors():
        return Sampling(SamplingParams(**fields, n=made), count)


def _set_in(given: SamplingParams, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of what the object sets; a keyword that says otherwise is named."""
    plain = SamplingParams()
    found = {}
    for name in _FIELDS:
        value = getattr(given, name)
        if value == getattr(plain, name):
            continue
        if name in keywords and keywords[name] != value:
            logger.warning("%s=%r has no effect: sampling_params says %r", name, keywords[name], value)
        found[name] = copy.deepcopy(value)
    if given.max_tokens == plain.max_tokens and "max_tokens" not in keywords:
        found["max_tokens"] = given.max_tokens
    return found


def _beams(fields: dict[str, Any], width: int, constraint: Mapping[str, Any]) -> BeamSearchParams:
    if constraint:
        raise PayloadError("vLLM's beam search knows no output types")
    if other := sorted(fields.keys() - _BEAM_FIELDS):
        raise PayloadError(f"{', '.join(other)} has no effect on beams; leave it out, or leave use_beam_search out")
    if fields.get("max_tokens") is None:
        raise PayloadError("use_beam_search=True needs max_tokens")
    with user_errors():
        return BeamSearchParams(beam_width=width, **fields)


def _constraint(fields: Mapping[str, Any], writes_grammar: bool) -> StructuredOutputsParams:
    with user_errors():
        if "json" in fields:
            fields = compact_json(json.dumps(fields["json"]), writes_grammar)
        return StructuredOutputsParams(**fields)
