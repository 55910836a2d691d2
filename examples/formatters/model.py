# SPDX-License-Identifier: Apache-2.0
"""A wire format of one's own around the default handler: `{"ask": ...}` in, `{"said": ..., "tokens": ...}` out."""

from djl_python.input_parser import input_formatter
from djl_python.output_formatter import output_formatter


@input_formatter
def read(payload: dict) -> dict:
    if "ask" not in payload:
        return payload
    return {"inputs": payload["ask"], "parameters": {"max_new_tokens": 60}}


@output_formatter
def write(response) -> dict:
    return {"said": response["choices"][0]["text"], "tokens": response["usage"]["completion_tokens"]}
