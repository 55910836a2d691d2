# SPDX-License-Identifier: Apache-2.0
"""What the schemas for `inputs` and `parameters` share: reading one field of a payload, or refusing it by name."""

from typing import Any

from serving.errors import PayloadError

DEFAULT_MAX_NEW_TOKENS = 30
_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}


def of(payload: dict[str, Any]) -> dict[str, Any]:
    """A copy of the payload's `parameters`.

    Raises:
        PayloadError: they are no object.
    """
    fields = payload.get("parameters", {})
    if not isinstance(fields, dict):
        raise PayloadError(f"Input parsing failed: parameters must be an object, got {type(fields).__name__}")
    return dict(fields)


def flag(fields: dict[str, Any], name: str) -> bool:
    """Takes a boolean out of `fields`; absent and null mean false, `"true"` and 1 mean true."""
    value = fields.pop(name, None)
    if value is None or value in (False, 0, "false", "False"):
        return False
    if value in (True, 1, "true", "True"):
        return True
    raise PayloadError(f"Input parsing failed: {name} must be true or false, got {value!r}")


def count(fields: dict[str, Any], name: str) -> int:
    """Takes a whole number that is not negative out of `fields`; absent means 0."""
    value = fields.pop(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PayloadError(f"Input parsing failed: {name} must be a whole number from 0, got {value!r}")
    return value


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


def refuse_beams(fields: dict[str, Any]) -> None:
    """Parameters that ask for several candidates, of which one value only can be served."""
    for name in ("best_of", "num_beams"):
        if count(fields, name) > 1:
            raise PayloadError(f"Input parsing failed: {name} must be 1; more candidates are not supported")
    if flag(fields, "use_beam_search"):
        raise PayloadError("Input parsing failed: use_beam_search must be false; beam search needs a `prompt` payload")
