# SPDX-License-Identifier: Apache-2.0
"""LMI's payload for embedding models: `inputs`, and how the vectors are made."""

from typing import Any

from serving.errors import PayloadError
from serving.schemas import parameters
from serving.schemas.generation import EmbeddingRequest
from serving.schemas.parameters import encodable, is_whole

_GENERATION = ("prompt", "messages")


def parse(payload: dict[str, Any]) -> EmbeddingRequest:
    """A payload with `inputs` as a typed request.

    Raises:
        PayloadError: naming the field, what is wrong with it and what would do.
    """
    other = next((name for name in _GENERATION if name in payload), None)
    if "inputs" not in payload and other is not None:
        text = f"this model embeds texts and does not generate; send inputs, not {other}"
        raise PayloadError(f"Input parsing failed: {text}")
    inputs = payload.get("inputs")
    if inputs is None or inputs in ("", []):
        raise PayloadError("Input parsing failed: inputs must not be empty")
    if isinstance(inputs, str):
        inputs = [inputs]
    if isinstance(inputs, list) and all(is_whole(item) for item in inputs):
        inputs = [inputs]
    elif not isinstance(inputs, list) or not all(isinstance(item, str) for item in inputs):
        kind = "a mixed list" if isinstance(inputs, list) else type(inputs).__name__
        raise PayloadError(f"Input parsing failed: 'inputs' must be a string or list of strings, got {kind}")
    given = parameters.without_null(parameters.of(payload))
    return EmbeddingRequest(
        inputs=[encodable(item) if isinstance(item, str) else item for item in inputs],
        model=payload.get("model"),
        normalize=parameters.flag(given, "normalize") if "normalize" in given else None,
        truncate=_length(given, "truncate"),
        dimensions=_length(given, "dimensions"),
    )


def _length(given: dict[str, Any], name: str) -> int | None:
    """A number of tokens or dimensions; -1 is left to the engine, which knows it."""
    value = given.get(name)
    if value is not None and not is_whole(value):
        raise PayloadError(f"Input parsing failed: {name} must be a whole number, got {value!r}")
    return value
