# SPDX-License-Identifier: Apache-2.0
"""LMI's own schema in rolling-batch mode (tests/conformance/data/schemas.yaml): greedy unless told otherwise.

Values are typed strictly, as LMI's rolling batch hands them to vLLM unread; the engine judges their range. The model's
own generation config is not consulted.
"""

import logging
import math
import random
from collections.abc import Mapping
from typing import Any

from serving.errors import PayloadError
from serving.schemas import output, parameters
from serving.schemas.generation import GenerationRequest, LmiRequest
from serving.schemas.output import Defaults
from serving.schemas.parameters import DEFAULT_MAX_NEW_TOKENS, count, encodable, flag, guide, number, strings

logger = logging.getLogger(__name__)

_NUMBER = (int, float)
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "temperature": _NUMBER, "top_p": _NUMBER, "min_p": _NUMBER, "top_k": int,
    "repetition_penalty": _NUMBER, "presence_penalty": _NUMBER, "frequency_penalty": _NUMBER,
    "n": int, "min_tokens": int, "logprobs": int, "prompt_logprobs": int,
    "stop": (str, list), "stop_token_ids": list, "bad_words": list, "allowed_token_ids": list,
    "ignore_eos": bool, "include_stop_str_in_output": bool,
    "skip_special_tokens": bool, "spaces_between_special_tokens": bool,
    "logit_bias": dict, "structured_outputs": dict, "response_format": dict,
    "use_beam_search": bool, "length_penalty": _NUMBER,
}  # fmt: skip
"""Fields of vLLM's completion request that reach it, and their types in JSON."""
_MAY_BE_NULL = frozenset({"logprobs", "prompt_logprobs", "structured_outputs", "response_format"})
_OURS = frozenset({"adapters", "max_tokens"})
_MOST_REPORTED = 100
_dropped: set[str] = set()
"""Names that were reported once; clients cannot fill the log with ever new ones."""


def parse(payload: dict[str, Any], defaults: Defaults) -> LmiRequest:
    """A payload with `inputs` as a typed request.

    Raises:
        PayloadError: naming the field, what is wrong with it and what would do.
    """
    inputs = payload.get("inputs")
    if not isinstance(inputs, str) or not inputs:
        kind = "an empty string" if inputs == "" else "null" if inputs is None else type(inputs).__name__
        raise PayloadError(f"Input parsing failed: inputs must be a string that is not empty, got {kind}")
    given = parameters.of(payload)
    asks = parameters.asks_for_stream(payload, given)
    output_format, stream = output.choose(given.pop("output_formatter", None), asks, defaults)
    asks_for_several = any(number(given.get(name), 1) > 1 for name in ("best_of", "num_beams", "n"))
    details = flag(given, "details", default=defaults.tgi_compat) or (asks_for_several and not stream)
    full_text = flag(given, "return_full_text")
    top_n_tokens = count(given, "top_n_tokens")
    show_prompt = flag(given, "decoder_input_details")
    fields, num_sequences = _fields(given, stream)
    if stream and fields.get("n", 1) > 1:
        raise PayloadError("Input parsing failed: n above 1 is only supported without streaming")
    if (details or stream) and fields.get("logprobs") is None:
        fields["logprobs"] = max(1, top_n_tokens)
    if show_prompt:
        fields["prompt_logprobs"] = 1
    request = GenerationRequest(
        encodable(inputs), fields, stream, top_n_tokens, model=payload.get("model"), use_generation_config=False
    )
    return LmiRequest(
        generations=[request],
        return_full_text=full_text,
        details=details,
        top_n_tokens=top_n_tokens,
        seed=fields["seed"],
        output_format=output_format,
        num_sequences=num_sequences,
        tgi_keys=defaults.tgi_compat,
    )


def _fields(given: dict[str, Any], stream: bool) -> tuple[dict[str, Any], int]:
    """The parameters in the words of vLLM's completion request, and how many sequences the answer shows."""
    max_tokens = _max_tokens(given.pop("max_new_tokens", None))
    seed = _seed(given.pop("seed", None))
    greedy = _is_greedy(given.pop("do_sample", None), given.get("temperature"))
    if "ignore_eos_token" in given:
        given.setdefault("ignore_eos", given.pop("ignore_eos_token"))
    if (stops := given.pop("stop_sequences", None)) is not None:
        given["stop"] = strings(stops, "stop_sequences")
    guide(given)
    num_sequences = parameters.sequences(given, stream, greedy)
    unknown = given.keys() - _FIELDS.keys() - _OURS - _dropped
    if unknown and len(_dropped) < _MOST_REPORTED:
        _dropped.update(unknown)
        logger.warning("parameters without effect in rolling-batch mode: %s", ", ".join(sorted(unknown)))
    fields = {name: _typed(name, value) for name, value in given.items() if name in _FIELDS}
    if greedy:
        fields["temperature"] = 0.0
    return fields | {"max_tokens": max_tokens, "seed": seed}, num_sequences


def _typed(name: str, value: Any) -> Any:
    kinds = _FIELDS[name]
    if value is None and name in _MAY_BE_NULL:
        return None
    is_bool = isinstance(value, bool)
    if not isinstance(value, kinds) or (is_bool and kinds is not bool):
        expected = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise PayloadError(f"Input parsing failed: {name} must be of type {expected}, got {value!r}")
    return value


def _is_greedy(do_sample: Any, temperature: Any) -> bool:
    """`do_sample` false, nothing said about sampling at all, or a temperature of zero."""
    if do_sample is None:
        return temperature is None or temperature == 0
    if do_sample not in (True, False, "true", "True", "false", "False"):
        raise PayloadError(f"Input parsing failed: do_sample must be true or false, got {do_sample!r}")
    return do_sample is False or do_sample in ("false", "False")


def _max_tokens(value: Any) -> int:
    """The limit; a fraction counts as one more token, as it does where LMI compares."""
    if value is None:
        return DEFAULT_MAX_NEW_TOKENS
    if isinstance(value, bool) or not isinstance(value, _NUMBER) or not math.isfinite(value) or value <= 0:
        raise PayloadError(f"Input parsing failed: max_new_tokens must be at least 1, got {value!r}")
    return math.ceil(value)


def _seed(value: Any) -> int:
    """The client's seed, of any length; without one a random one, which the details can show."""
    if value is None:
        return random.getrandbits(32)
    try:
        return int(value) % 2**63 if int(value) >= 0 else int(value)
    except (ValueError, TypeError, OverflowError):
        raise PayloadError(f"Input parsing failed: seed must be a whole number, got {value!r}") from None
