# SPDX-License-Identifier: Apache-2.0
"""Where `model.py` files import the input formatter's decorator from, and a reader of batches of text requests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from djl_python.encode_decode import decode
from djl_python.inputs import Input
from djl_python.marks import init_handler, input_formatter, output_formatter, prediction_handler
from djl_python.request_io import RequestInput, RequestOutput, TextGenerationOutput, TextInput

__all__ = [
    "SAGEMAKER_ADAPTER_IDENTIFIER_HEADER",
    "ParsedInput",
    "RequestInput",
    "RequestOutput",
    "TextGenerationOutput",
    "TextInput",
    "init_handler",
    "input_formatter",
    "output_formatter",
    "parse_input_with_formatter",
    "prediction_handler",
]

SAGEMAKER_ADAPTER_IDENTIFIER_HEADER = "X-Amzn-SageMaker-Adapter-Identifier"

_FAILED = "Input Parsing failed. Ensure that the request payload is valid. "


@dataclass
class ParsedInput:
    """A batch, read.

    Attributes:
        errors: why an item could not be read, by its index.
        requests: the items that could, in order, numbered by their index.
        batch: all items.
    """

    errors: dict[int, str] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    batch: list[Input] = field(default_factory=list)


def parse_input_with_formatter(
    inputs: Input,
    input_formatter: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> ParsedInput:
    """Reads every request of a batch; a bad one does not spoil the others.

    Args:
        inputs: one request, or a batch.
        input_formatter: makes a request of an item in place of the built-in reader; called with the item and `kwargs`.
        **kwargs: `tokenizer` is kept with each request.
    """
    parsed = ParsedInput(batch=inputs.get_batches())
    for index, item in enumerate(parsed.batch):
        try:
            request = input_formatter(item, **kwargs) if input_formatter else _text_request(index, item, **kwargs)
        except Exception as error:
            parsed.errors[index] = f"{_FAILED}{error}"
        else:
            parsed.requests.append(request)
    return parsed


def _text_request(index: int, item: Input, tokenizer: Any = None, **_: Any) -> TextInput:
    payload = decode(item, item.get_property("content-type"))
    if not isinstance(payload, dict):
        raise ValueError("The request body must be a JSON object.")
    text, parameters = payload.get("inputs"), payload.get("parameters") or {}
    if not isinstance(text, str) or not text:
        raise ValueError("`inputs` must be a text that is not empty.")
    if not isinstance(parameters, dict):
        raise ValueError("`parameters` must be a JSON object.")
    if "stream" in payload:
        parameters = {**parameters, "stream": payload["stream"]}
    adapter = item.get_property(SAGEMAKER_ADAPTER_IDENTIFIER_HEADER) or payload.get("adapters")
    return TextInput(
        request_id=index,
        client_request_id=item.get_property("requestId"),
        parameters=parameters,
        server_parameters=dict(parameters),
        input_text=text,
        adapters=adapter,
        tokenizer=tokenizer,
    )
