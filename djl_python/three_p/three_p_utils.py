# SPDX-License-Identifier: Apache-2.0
"""Bedrock's request body in LMI's words."""

from collections.abc import Mapping
from typing import Any


def parse_3p_request(
    input_map: Mapping[str, Any], is_rolling_batch: bool, tokenizer: Any, invoke_type: str
) -> tuple[str, dict[str, Any]]:
    """The prompt, and what to generate with.

    Args:
        input_map: `prompt`, and optionally `temperature` (0.5), `top_p` (0.9) and `max_gen_len` (512).
        is_rolling_batch: accepted because LMI's callers pass it.
        tokenizer: accepted because LMI's callers pass it.
        invoke_type: `InvokeEndpointWithResponseStream` asks for a stream.

    Raises:
        KeyError: there is no prompt.
    """
    parameters = {
        "temperature": input_map.get("temperature", 0.5),
        "top_p": input_map.get("top_p", 0.9),
        "max_new_tokens": input_map.get("max_gen_len", 512),
    }
    if invoke_type == "InvokeEndpointWithResponseStream":
        parameters["stream"] = True
    return input_map["prompt"], parameters
