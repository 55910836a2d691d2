# SPDX-License-Identifier: Apache-2.0
"""Reading text requests: their prompt and parameters, their adapter, and their numbers in a batch."""

from types import SimpleNamespace
from typing import Any

import pytest

from djl_python import Input
from djl_python.input_parser import (
    TextInput,
    add_server_maintained_params,
    format_input,
    get_batch_start_id,
    get_req_id_counter,
    parse_adapters,
    parse_input_with_formatter,
    parse_lmi_default_request_rolling_batch,
)
from djl_python.properties_manager.hf_properties import HuggingFaceProperties
from djl_python.request import Request
from djl_python.test_model import create_3p_request, create_concurrent_batch_request, create_json_request
from djl_python.utils import IdCounter

pytestmark = pytest.mark.pure

ADAPTERS = {"a": "adapter a", "b": "adapter b", "c": "adapter c"}


def adapter_of(
    body: dict[str, Any], content: str | None = None, header: str | None = None, enable_lora: Any = "true"
) -> Any:
    request, item = TextInput(), Input()
    if content:
        item.content.add("adapter", content.encode())
    if header:
        item.properties["x-amzn-sagemaker-adapter-identifier"] = header
    configs = HuggingFaceProperties(model_id="m", enable_lora=enable_lora)
    parse_adapters(request, item, body, configs=configs, adapter_registry=ADAPTERS)
    return request.adapters


def test_which_adapter() -> None:
    assert adapter_of({}) is None
    assert adapter_of({"adapters": "a"}) == adapter_of({"adapters": ["a"]}) == "adapter a"
    assert adapter_of({"adapters": "a"}, "b") == "adapter b"
    assert adapter_of({"adapters": "a"}, "b", "c") == "adapter c"


def test_adapters_that_can_not_be() -> None:
    with pytest.raises(ValueError, match=r"^Adapter zz is not registered$"):
        adapter_of({"adapters": "zz"})
    with pytest.raises(ValueError, match="one adapter"):
        adapter_of({"adapters": ["a", "b"]})


@pytest.mark.parametrize("enable_lora", [False, "false"])
def test_adapters_of_a_model_without_any(enable_lora: Any) -> None:
    assert adapter_of({"adapters": "zz"}, enable_lora=enable_lora) is None
    request = TextInput()
    parse_adapters(request, Input(), {"adapters": "zz"})
    assert request.adapters is None


def test_a_request() -> None:
    item = create_json_request({"inputs": "x", "parameters": {"seed": 5, "output_formatter": "sse"}, "stream": True})
    item.properties["requestId"] = "abc"
    configs = HuggingFaceProperties(model_id="m", output_formatter="json", tgi_compat="true")
    made = format_input(item, configs=configs, tokenizer="T")
    assert (made.input_text, made.parameters) == ("x", {"seed": 5, "stream": True})
    assert (made.output_formatter, made.tgi_compat) == ("sse", True)
    assert (made.client_request_id, made.tokenizer) == ("abc", "T")
    assert made.server_parameters == made.parameters
    assert made.server_parameters is not made.parameters


def test_the_server_chooses_a_format_and_a_seed() -> None:
    configs = HuggingFaceProperties(model_id="m", output_formatter="jsonlines")
    made = format_input(create_json_request({"inputs": "x"}), configs=configs)
    assert (made.output_formatter, made.parameters) == ("jsonlines", {})
    seed = made.server_parameters["seed"]
    add_server_maintained_params(made)
    assert made.server_parameters["seed"] != seed


@pytest.mark.parametrize(
    "body",
    [[1], {}, {"inputs": ""}, {"inputs": 5}, {"inputs": "x", "parameters": None}, {"inputs": "x", "parameters": 5}],
)
def test_bodies_that_are_no_request(body: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_lmi_default_request_rolling_batch(body)


def test_the_body_stays_as_it_was() -> None:
    body = {"inputs": "x", "parameters": {"output_formatter": "json"}, "stream": False}
    assert parse_lmi_default_request_rolling_batch(body) == ("x", {"output_formatter": "json", "stream": False})
    assert body["parameters"] == {"output_formatter": "json"}


@pytest.mark.parametrize(("stream", "form"), [(False, "3p"), (True, "3p_stream")])
def test_bedrock(stream: bool, form: str) -> None:
    configs = HuggingFaceProperties(model_id="m", bedrock_compat=True)
    made = format_input(create_3p_request({"prompt": "x", "max_gen_len": 3}, stream), configs=configs)
    assert (made.input_text, made.parameters["max_new_tokens"], made.output_formatter) == ("x", 3, form)
    with pytest.raises(ValueError, match="inputs"):
        format_input(create_3p_request({"prompt": "x"}))


def test_numbers() -> None:
    batch = create_concurrent_batch_request([{"inputs": "a"}, {"inputs": ""}, {"inputs": "b"}])
    counter = IdCounter()
    counter.id = 5
    rolling_batch = SimpleNamespace(req_id_counter=counter)
    assert get_req_id_counter({"rolling_batch": rolling_batch}) is counter
    assert get_batch_start_id(counter) == 5
    parsed = parse_input_with_formatter(batch, rolling_batch=rolling_batch)
    assert [one.id for one in parsed.requests] == [5, 7]
    assert list(parsed.errors) == [1]
    assert [one.id for one in parse_input_with_formatter(batch).requests] == [0, 2]


def test_what_a_formatter_returns() -> None:
    def formatter(item: Input, **_: Any) -> Any:
        text = item.get_as_json()
        return TextInput(input_text=text) if text == "x" else text

    item = create_concurrent_batch_request(["x", "y"])
    made, kept = parse_input_with_formatter(item, formatter).requests
    assert isinstance(made, Request)
    assert (made.request_input.input_text, kept) == ("x", "y")


def test_a_request_without_a_format_is_an_error() -> None:
    item = create_json_request({"inputs": "x", "parameters": {"output_formatter": "none"}})
    assert parse_input_with_formatter(item).errors == {
        0: "Input Parsing failed. Ensure that the request payload is valid. None is not a callable object"
    }
