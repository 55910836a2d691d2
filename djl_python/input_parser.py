# SPDX-License-Identifier: Apache-2.0
"""Where `model.py` files import the input formatter's decorator from, and a reader of text requests.

The reader's functions take `**kwargs` of which they know `configs`, the model's options
(`djl_python.properties_manager`), `adapter_registry`, registered adapters by name, `tokenizer`, kept with each request,
and `rolling_batch`, whose `req_id_counter` numbers the requests.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from djl_python.encode_decode import decode
from djl_python.inputs import Input
from djl_python.marks import init_handler, input_formatter, output_formatter, prediction_handler
from djl_python.request import Request
from djl_python.request_io import RequestInput, RequestOutput, TextGenerationOutput, TextInput
from djl_python.three_p.three_p_utils import parse_3p_request
from djl_python.utils import IdCounter, is_streaming

__all__ = [
    "SAGEMAKER_ADAPTER_IDENTIFIER_HEADER",
    "ParsedInput",
    "RequestInput",
    "RequestOutput",
    "TextGenerationOutput",
    "TextInput",
    "add_server_maintained_params",
    "format_input",
    "get_batch_start_id",
    "get_req_id_counter",
    "init_handler",
    "input_formatter",
    "output_formatter",
    "parse_adapters",
    "parse_input_with_formatter",
    "parse_lmi_default_request_rolling_batch",
    "parse_text_inputs_params",
    "prediction_handler",
]

SAGEMAKER_ADAPTER_IDENTIFIER_HEADER = "X-Amzn-SageMaker-Adapter-Identifier"

_FORWARDED_API_HEADER = "X-Amzn-SageMaker-Forwarded-Api"

_FAILED = "Input Parsing failed. Ensure that the request payload is valid. "


@dataclass
class ParsedInput:
    """A batch, read.

    Attributes:
        errors: why an item could not be read, by its index.
        requests: the items that could, in order.
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
        input_formatter: reads an item in place of `format_input`; called with the item and `kwargs`. What it returns
            becomes a `Request` if it is a `RequestInput`, and is kept as it is otherwise.
        **kwargs: as the module says.
    """
    parsed = ParsedInput(batch=inputs.get_batches())
    counter = get_req_id_counter(kwargs)
    first_id = get_batch_start_id(counter)
    read = input_formatter or format_input
    for index, item in enumerate(parsed.batch):
        request_id = counter.next_id() if counter else first_id + index
        try:
            request = read(item, **kwargs)
            if isinstance(request, RequestInput):
                request.request_id = request_id
                request.client_request_id = request.client_request_id or item.get_property("requestId")
                request = Request(request)
        except Exception as error:
            parsed.errors[index] = f"{_FAILED}{error}"
        else:
            parsed.requests.append(request)
    return parsed


def get_req_id_counter(kwargs: Mapping[str, Any]) -> IdCounter | None:
    """What numbers the requests of the rolling batch; None without one."""
    counter: IdCounter | None = getattr(kwargs.get("rolling_batch"), "req_id_counter", None)
    return counter


def get_batch_start_id(req_id_counter: IdCounter | None) -> int:
    """The number of a batch's first request."""
    return req_id_counter.get_id() if req_id_counter else 0


def format_input(inputs: Input, **kwargs: Any) -> TextInput:
    """Reads one request.

    Raises:
        ValueError: it is not one for text, or names an adapter that is not registered.
    """
    payload = decode(inputs, inputs.get_property("content-type"))
    request = TextInput()
    parse_text_inputs_params(request, inputs, payload, **kwargs)
    parse_adapters(request, inputs, payload, **kwargs)
    return request


def parse_text_inputs_params(
    request_input: TextInput, input_item: Input, input_map: Mapping[str, Any], **kwargs: Any
) -> None:
    """Sets a request's prompt, its parameters and how to write its answer.

    Args:
        request_input: the request.
        input_item: what the client sent.
        input_map: its body, decoded.
        **kwargs: as the module says.

    Raises:
        ValueError: it is not a request for text.
    """
    configs = kwargs.get("configs")
    chosen = getattr(configs, "output_formatter", None)
    if getattr(configs, "bedrock_compat", False) and "prompt" in input_map:
        forwarded = input_item.get_property(_FORWARDED_API_HEADER) or ""
        text, parameters = parse_3p_request(input_map, True, kwargs.get("tokenizer"), forwarded)
        chosen = "3p_stream" if is_streaming(parameters) else "3p"
    else:
        text, parameters = parse_lmi_default_request_rolling_batch(input_map)
    request_input.input_text = text
    request_input.output_formatter = parameters.pop("output_formatter", chosen)
    request_input.parameters = parameters
    request_input.tgi_compat = getattr(configs, "tgi_compat", False)
    request_input.client_request_id = input_item.get_property("requestId")
    request_input.tokenizer = kwargs.get("tokenizer")
    add_server_maintained_params(request_input)


def parse_lmi_default_request_rolling_batch(payload: Any) -> tuple[str, dict[str, Any]]:
    """The prompt and the parameters of a body with `inputs`; `stream` becomes one of the parameters.

    Raises:
        ValueError: the body is not of that kind.
    """
    if not isinstance(payload, Mapping):
        raise ValueError("The request body must be a JSON object.")
    text, parameters = payload.get("inputs"), payload.get("parameters", {})
    if not isinstance(text, str) or not text:
        raise ValueError("`inputs` must be a text that is not empty.")
    if not isinstance(parameters, dict):
        raise ValueError("`parameters` must be a JSON object.")
    asked = {"stream": payload["stream"]} if "stream" in payload else {}
    return text, {**parameters, **asked}


def add_server_maintained_params(request_input: RequestInput) -> None:
    """Sets what to generate with: the client's parameters, and a random seed where these have none."""
    request_input.server_parameters = {"seed": random.getrandbits(32), **request_input.parameters}


def parse_adapters(request_input: TextInput, input_item: Input, input_map: Mapping[str, Any], **kwargs: Any) -> None:
    """Sets a request's adapter, where the model has any.

    Its name comes from the header, else from the content `adapter`, else from `adapters` in the body.

    Args:
        request_input: the request.
        input_item: what the client sent.
        input_map: its body, decoded.
        **kwargs: as the module says.

    Raises:
        ValueError: there is no such adapter, or several are named.
    """
    if not getattr(kwargs.get("configs"), "enable_lora", False):
        return
    named = input_item.get_property(SAGEMAKER_ADAPTER_IDENTIFIER_HEADER)
    if not named and input_item.contains_key("adapter"):
        named = input_item.get_as_string("adapter")
    named = named or input_map.get("adapters")
    names = named if isinstance(named, list) else [named] if named else []
    if len(names) > 1:
        raise ValueError("A request can name one adapter.")
    registry = kwargs.get("adapter_registry") or {}
    for name in names:
        if name not in registry:
            raise ValueError(f"Adapter {name} is not registered")
        request_input.adapters = registry[name]
