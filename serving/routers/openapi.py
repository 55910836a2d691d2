# SPDX-License-Identifier: Apache-2.0
"""What routes that read their body themselves tell our OpenAPI document about it."""

from typing import Any

_EXAMPLE = {"inputs": "What is LoRA?", "parameters": {"max_new_tokens": 40}}


def json_body(**schema: Any) -> dict[str, Any]:
    """`openapi_extra` of a route that takes a JSON object with this schema."""
    described = {"type": "object", **schema, "example": _EXAMPLE}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": described}}}}
