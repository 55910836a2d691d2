# SPDX-License-Identifier: Apache-2.0
"""Which schema a payload follows: the first key present decides, whatever the route."""

from collections.abc import Callable, Mapping
from typing import Any

from serving.errors import PayloadError
from serving.schemas import lmi
from serving.schemas.generation import LmiRequest, OpenAIRequest

SCHEMAS: Mapping[str, Callable[[dict[str, Any]], LmiRequest | OpenAIRequest]] = {
    "prompt": lambda payload: OpenAIRequest("completion", payload),
    "inputs": lmi.parse,
    "messages": lambda payload: OpenAIRequest("chat", payload),
}


def parse(payload: dict[str, Any]) -> LmiRequest | OpenAIRequest:
    """The payload as a typed request.

    Raises:
        PayloadError: no known key, or a value that the schema refuses.
    """
    for key, schema in SCHEMAS.items():
        if key in payload:
            return schema(payload)
    raise PayloadError("Input parsing failed: invalid payload. must contain prompt, inputs, or messages")
