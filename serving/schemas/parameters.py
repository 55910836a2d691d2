# SPDX-License-Identifier: Apache-2.0
"""What the schemas for `inputs` and `parameters` share: reading one field of a payload, or refusing it by name."""

from typing import Any

from serving.errors import PayloadError

DEFAULT_MAX_NEW_TOKENS = 30
_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}

_NOT_WITH_BEAMS = (
    "stop", "stop_token_ids", "structured_outputs", "response_format", "min_tokens", "logit_bias", "bad_words",
    "allowed_token_ids", "prompt_logprobs",
)  # fmt: skip


def of(payload: dict[str, Any]) -> dict[str, Any]:
    """A copy of the payload's `parameters`.

    Raises:
        PayloadError: they are no object.
    """
    fields = payload.get("parameters", {})
    if not isinstance(fields, dict):
        raise PayloadError(f"Input parsing failed: parameters must be an object, got {type(fields).__name__}")
    return dict(fields)


def flag(fields: dict[str, Any], name: str, default: bool = False) -> bool:
    """Takes a boolean out of `fields`; absent and null mean the default, `"true"` and 1 mean true."""
    value = fields.pop(name, None)
    if value is None:
        return default
    if value in (False, 0, "false", "False"):
        return False
    if value in (True, 1, "true", "True"):
        return True
    raise PayloadError(f"Input parsing failed: {name} must be true or false, got {value!r}")


def asks_for_stream(payload: dict[str, Any], fields: dict[str, Any]) -> bool:
    """The payload wants a stream, by its own flag or by the one in its parameters, which is taken out of `fields`."""
    return any([flag(fields, "stream"), flag({"stream": payload.get("stream")}, "stream")])


def without_null(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` without those that are null, which means absent."""
    return {name: value for name, value in fields.items() if value is not None}


def is_whole(value: Any) -> bool:
    """A whole number, and not `true` or `false`, which Python takes for one."""
    return isinstance(value, int) and not isinstance(value, bool)


def count(fields: dict[str, Any], name: str) -> int:
    """Takes a whole number that is not negative out of `fields`; absent means 0."""
    value = fields.pop(name, 0)
    if not is_whole(value) or value < 0:
        raise PayloadError(f"Input parsing failed: {name} must be a whole number from 0, got {value!r}")
    return int(value)


def strings(value: Any, name: str) -> list[str]:
    """`value` as a list of strings; one string is a list of one."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise PayloadError(f"Input parsing failed: {name} must be a list of strings, got {value!r}")
    return items


def encodable(text: str) -> str:
    """`text`, unless it holds half of a surrogate pair, which no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PayloadError(f"Input parsing failed: inputs is not valid Unicode: {error}") from None
    return text


def guide(fields: dict[str, Any]) -> None:
    """Turns `guided_*` into vLLM's `structured_outputs`, in place."""
    guided = {member: fields.pop(name) for name, member in _GUIDED.items() if name in fields}
    if guided and "structured_outputs" in fields:
        raise PayloadError(f"Input parsing failed: give structured_outputs or {', '.join(_GUIDED)}, not both")
    if guided:
        if pattern := fields.pop("guided_whitespace_pattern", None):
            guided["whitespace_pattern"] = pattern
        fields["structured_outputs"] = guided


def sequences(fields: dict[str, Any], stream: bool, is_greedy: bool) -> int:
    """How many sequences the answer shows; puts into `fields` how many are generated, in place.

    `best_of` generates more than are shown, unless decoding is greedy and all would be the same. `num_beams` and
    `use_beam_search` become vLLM's beam search.

    Raises:
        PayloadError: several sequences of which the best is wanted, streamed.
    """
    beams, best_of = count(fields, "num_beams"), count(fields, "best_of")
    fields.pop("early_stopping", None)
    if "n" in fields:
        fields["n"] = _whole(fields["n"], "n")
    if beams > 1 or flag(fields, "use_beam_search"):
        return _beams(fields, stream, max(beams, best_of, fields.get("n", 1)))
    fields.pop("length_penalty", None)
    shown: int = fields.get("n", 1)
    if best_of > shown and not is_greedy:
        if stream:
            raise PayloadError("Input parsing failed: best_of is only supported without streaming")
        fields["n"] = best_of
    if fields.get("n", 1) > 1 and not stream:
        # The best sequence comes first, and which one that is takes log-probabilities.
        fields.setdefault("logprobs", 0)
    return shown


def _beams(fields: dict[str, Any], stream: bool, width: int) -> int:
    """vLLM's beam search, which knows fewer fields than sampling does."""
    if stream:
        raise PayloadError("Input parsing failed: beam search is only supported without streaming")
    if unknown := [name for name in _NOT_WITH_BEAMS if fields.get(name) is not None]:
        raise PayloadError(f"Input parsing failed: {unknown[0]} is not supported with beam search")
    fields |= {"use_beam_search": True, "temperature": 0.0, "n": width}
    return width


def refuse_prompt_logprobs(fields: dict[str, Any], stream: bool) -> None:
    """What shows the prompt's tokens goes neither with async mode's stream nor with beam search."""
    if stream:
        raise PayloadError("Input parsing failed: prompt_logprobs are only supported without streaming")
    if fields.get("use_beam_search"):
        raise PayloadError("Input parsing failed: prompt_logprobs is not supported with beam search")


def is_zero(value: Any) -> bool:
    """The number, and not `false`."""
    return value == 0 and not isinstance(value, bool)


def _whole(value: Any, name: str) -> int:
    """A whole number, also as a text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if not is_whole(value):
        raise PayloadError(f"Input parsing failed: {name} must be a whole number, got {value!r}")
    return int(value)


def number(value: Any, default: int) -> int:
    """`value` if it is a whole number; what else it may be is left to the engine to refuse."""
    return value if is_whole(value) else default
