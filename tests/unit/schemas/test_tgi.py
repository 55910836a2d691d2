# SPDX-License-Identifier: Apache-2.0
"""TGI's bodies: null is absent, greedy unless something asks for sampling, and what cannot be done is refused."""

from typing import Any

import pytest

from serving.errors import PayloadError
from serving.schemas.generation import LmiRequest
from serving.schemas.tgi import parse

pytestmark = pytest.mark.pure


def parsed(parameters: dict[str, Any] | None, stream: bool = False) -> LmiRequest:
    return parse({"inputs": "hello", "parameters": parameters}, stream, "tgi")


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        (None, {"max_tokens": 100, "temperature": 0.0}),
        ({"temperature": None, "top_p": None, "do_sample": None}, {"max_tokens": 100, "temperature": 0.0}),
        ({"max_new_tokens": 5, "do_sample": False}, {"max_tokens": 5, "temperature": 0.0}),
        ({"temperature": 0.5, "seed": 1}, {"max_tokens": 100, "temperature": 0.5, "seed": 1}),
        ({"do_sample": True, "seed": 1}, {"max_tokens": 100, "seed": 1}),
        ({"stop": ["a"]}, {"max_tokens": 100, "temperature": 0.0, "stop": ["a"]}),
        ({"truncate": 3},
         {"max_tokens": 100, "temperature": 0.0, "truncate_prompt_tokens": 3, "truncation_side": "left"}),
        ({"grammar": {"type": "regex", "value": "a+"}},
         {"max_tokens": 100, "temperature": 0.0, "structured_outputs": {"regex": "a+"}}),
        ({"grammar": {"type": "json", "value": {}}},
         {"max_tokens": 100, "temperature": 0.0, "structured_outputs": {"json": {}}}),
        ({"details": True, "decoder_input_details": True, "top_n_tokens": 2},
         {"max_tokens": 100, "temperature": 0.0, "logprobs": 2, "prompt_logprobs": 1}),
        ({"best_of": 2, "do_sample": True, "seed": 1}, {"max_tokens": 100, "seed": 1, "n": 2, "logprobs": 0}),
        ({"n": 2}, {"max_tokens": 100, "temperature": 0.0}),
        ({"watermark": False, "typical_p": 1.0}, {"max_tokens": 100, "temperature": 0.0}),
    ],
)  # fmt: skip
def test_fields(parameters: dict[str, Any] | None, fields: dict[str, Any]) -> None:
    (request,) = parsed(parameters).generations
    assert request.fields == fields | {"include_stop_str_in_output": True}


def test_seed_of_the_server() -> None:
    assert parsed({"do_sample": True}).seed is not None
    assert parsed({}).seed is None


def test_stream_shows_tokens_and_not_the_prompt() -> None:
    request = parsed({"return_full_text": True, "adapter_id": "a1"}, stream=True)
    assert (request.stream, request.return_full_text, request.generations[0].model) == (True, False, "a1")
    assert request.generations[0].fields["logprobs"] == 0


@pytest.mark.parametrize(
    ("parameters", "stream", "text"),
    [
        ({"watermark": True}, False, "`watermark` is not supported"),
        ({"typical_p": 0.5}, False, "`typical_p` is not supported"),
        ({"best_of": 2}, False, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 2, "do_sample": True}, True, "`best_of` != 1 is not supported when streaming tokens"),
        ({"decoder_input_details": True}, True, "`decoder_input_details` == true is not supported"),
        ({"grammar": {"type": "lark", "value": "x"}}, False, "`grammar` must be an object with a type, json or regex"),
        ({"grammar": "a+"}, False, "`grammar` must be an object"),
        ({"best_of": "3"}, False, "best_of must be a whole number"),
        ({"best_of": -1}, False, "best_of must be a whole number"),
        ({"details": "perhaps"}, False, "details must be true or false"),
        ({"adapter_id": [None]}, False, "`adapter_id` must be a string, got list"),
    ],
)
def test_refusal(parameters: dict[str, Any], stream: bool, text: str) -> None:
    with pytest.raises(PayloadError) as raised:
        parsed(parameters, stream)
    assert text in str(raised.value)


@pytest.mark.parametrize("inputs", [None, "", 5, ["a"]])
def test_inputs(inputs: Any) -> None:
    with pytest.raises(PayloadError, match="`inputs` must be a string that is not empty"):
        parse({"inputs": inputs}, False, "tgi")
