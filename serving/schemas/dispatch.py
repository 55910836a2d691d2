# SPDX-License-Identifier: Apache-2.0
"""Which schema a payload follows: the first key present decides, whatever the route. One table per mode of LMI.

A schema is a function of the payload and the server's defaults to a typed request.
"""

from collections.abc import Callable, Mapping
from typing import Any

from serving.errors import PayloadError
from serving.schemas import lmi, rolling_batch
from serving.schemas.generation import LmiRequest, OpenAIRequest
from serving.schemas.output import Defaults

Schema = Callable[[dict[str, Any], Defaults], LmiRequest | OpenAIRequest]


def _completion(payload: dict[str, Any], defaults: Defaults) -> OpenAIRequest:
    return OpenAIRequest("completion", payload)


def _chat(payload: dict[str, Any], defaults: Defaults) -> OpenAIRequest:
    return OpenAIRequest("chat", payload)


SCHEMAS: Mapping[str, Mapping[str, Schema]] = {
    "async": {"prompt": _completion, "inputs": lmi.parse, "messages": _chat},
    "rolling_batch": {"messages": _chat, "inputs": rolling_batch.parse},
}
"""Per mode of LMI the key of a payload and who reads it, in order."""


def schema_of(payload: dict[str, Any], defaults: Defaults) -> Schema | None:
    """The schema that reads this payload, if there is one."""
    return next((schema for key, schema in SCHEMAS[defaults.mode].items() if key in payload), None)


def parse(payload: dict[str, Any], defaults: Defaults) -> LmiRequest | OpenAIRequest:
    """The payload as a typed request.

    Raises:
        PayloadError: no known key, or a value that the schema refuses.
    """
    if (schema := schema_of(payload, defaults)) is not None:
        return schema(payload, defaults)
    names = list(SCHEMAS[defaults.mode])
    known = ", ".join(names[:-1]) + (", or " if len(names) > 2 else " or ") + names[-1]
    raise PayloadError(f"Input parsing failed: invalid payload. must contain {known}")
