# SPDX-License-Identifier: Apache-2.0
"""Which schema a payload follows: the first key present decides, whatever the route. One table per mode of LMI."""

from collections.abc import Callable, Mapping
from typing import Any

from serving.errors import PayloadError
from serving.schemas import lmi, rolling_batch
from serving.schemas.generation import LmiRequest, OpenAIRequest

Schemas = Mapping[str, Callable[[dict[str, Any]], LmiRequest | OpenAIRequest]]

ASYNC: Schemas = {
    "prompt": lambda payload: OpenAIRequest("completion", payload),
    "inputs": lmi.parse,
    "messages": lambda payload: OpenAIRequest("chat", payload),
}
ROLLING_BATCH: Schemas = {
    "messages": lambda payload: OpenAIRequest("chat", payload),
    "inputs": rolling_batch.parse,
}


def parse(payload: dict[str, Any], schemas: Schemas) -> LmiRequest | OpenAIRequest:
    """The payload as a typed request.

    Raises:
        PayloadError: no known key, or a value that the schema refuses.
    """
    for key, schema in schemas.items():
        if key in payload:
            return schema(payload)
    names = list(schemas)
    known = ", ".join(names[:-1]) + (", or " if len(names) > 2 else " or ") + names[-1]
    raise PayloadError(f"Input parsing failed: invalid payload. must contain {known}")
