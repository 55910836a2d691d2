# SPDX-License-Identifier: Apache-2.0
"""LMI's third-party schema, `prompt` and `max_gen_len`: rolling-batch mode with `option.bedrock_compat=true`."""

from typing import Any

from serving.errors import PayloadError
from serving.schemas.generation import GenerationRequest, LmiRequest
from serving.schemas.parameters import encodable

_DEFAULTS = {"temperature": 0.5, "top_p": 0.9, "max_gen_len": 512}


def parse(payload: dict[str, Any], stream: bool) -> LmiRequest:
    """A payload with `prompt` as a typed request; `stream` is decided by a header.

    Raises:
        PayloadError: naming the field, what is wrong with it and what would do.
    """
    prompt = payload.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise PayloadError("Input parsing failed: prompt must be a string that is not empty")
    given = {name: payload.get(name, default) for name, default in _DEFAULTS.items()}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise PayloadError(f"Input parsing failed: {name} must be a number, got {value!r}")
    fields = {"temperature": given["temperature"], "top_p": given["top_p"], "max_tokens": given["max_gen_len"]}
    if stream:
        fields["logprobs"] = 0
    model = payload.get("model")
    request = GenerationRequest(encodable(prompt), fields, stream, model=model, use_generation_config=False)
    return LmiRequest([request], return_full_text=True, output_format="3p")
