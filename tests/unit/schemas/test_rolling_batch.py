# SPDX-License-Identifier: Apache-2.0
"""Rolling batch's `inputs` and `parameters`: greedy by default, strictly typed, unknown names reported once."""

from typing import Any

import pytest

from serving.errors import PayloadError
from serving.schemas import rolling_batch
from serving.schemas.generation import LmiRequest
from serving.schemas.output import Defaults

pytestmark = pytest.mark.pure
BATCH = Defaults("rolling_batch")


def parsed(parameters: dict[str, Any], **payload: Any) -> LmiRequest:
    """The request of a payload with one prompt and these parameters."""
    return rolling_batch.parse({"inputs": "hello", "parameters": parameters} | payload, BATCH)


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({}, {"max_tokens": 30, "temperature": 0.0}),
        ({"max_new_tokens": 3}, {"max_tokens": 3, "temperature": 0.0}),
        ({"max_new_tokens": None}, {"max_tokens": 30, "temperature": 0.0}),
        ({"max_new_tokens": 5.5}, {"max_tokens": 6, "temperature": 0.0}),
        ({"max_new_tokens": 7, "max_tokens": 3}, {"max_tokens": 7, "temperature": 0.0}),
        ({"max_tokens": 2}, {"max_tokens": 30, "temperature": 0.0}),
        ({"do_sample": True}, {"max_tokens": 30}),
        ({"do_sample": True, "temperature": 0.9}, {"max_tokens": 30, "temperature": 0.9}),
        ({"do_sample": False, "temperature": 0.9}, {"max_tokens": 30, "temperature": 0.0}),
        ({"do_sample": "false"}, {"max_tokens": 30, "temperature": 0.0}),
        ({"do_sample": 0, "temperature": 0.9}, {"max_tokens": 30, "temperature": 0.9}),
        ({"do_sample": None, "temperature": 0.9}, {"max_tokens": 30, "temperature": 0.9}),
        ({"do_sample": None}, {"max_tokens": 30, "temperature": 0.0}),
        ({"temperature": 0.7}, {"max_tokens": 30, "temperature": 0.7}),
        ({"top_p": 0.5}, {"max_tokens": 30, "temperature": 0.0, "top_p": 0.5}),
        ({"stop_sequences": ["Lic"]}, {"max_tokens": 30, "temperature": 0.0, "stop": ["Lic"]}),
        ({"stop": ["ment"], "stop_sequences": ["Lic"]}, {"max_tokens": 30, "temperature": 0.0, "stop": ["Lic"]}),
        ({"ignore_eos_token": True}, {"max_tokens": 30, "temperature": 0.0, "ignore_eos": True}),
        ({"guided_choice": ["a"]}, {"max_tokens": 30, "temperature": 0.0, "structured_outputs": {"choice": ["a"]}}),
        ({"logit_bias": {"11": 100}}, {"max_tokens": 30, "temperature": 0.0, "logit_bias": {"11": 100}}),
        ({"decoder_input_details": True}, {"max_tokens": 30, "temperature": 0.0, "prompt_logprobs": 1}),
        ({"details": True}, {"max_tokens": 30, "temperature": 0.0, "logprobs": 1}),
        ({"details": True, "top_n_tokens": 3}, {"max_tokens": 30, "temperature": 0.0, "logprobs": 3}),
        ({"details": True, "logprobs": None}, {"max_tokens": 30, "temperature": 0.0, "logprobs": 1}),
        ({"truncate": 3, "watermark": True, "foo": 1, "adapters": "x"}, {"max_tokens": 30, "temperature": 0.0}),
    ],
)
def test_fields(parameters: dict[str, Any], fields: dict[str, Any]) -> None:
    (request,) = parsed({"seed": 1, **parameters}).generations
    assert request.fields == fields | {"seed": 1}
    assert not request.use_generation_config


@pytest.mark.parametrize(("seed", "expected"), [(42, 42), ("42", 42), (-1, -1), (2**63 + 5, 5)])
def test_seed(seed: Any, expected: int) -> None:
    assert parsed({"seed": seed}).seed == expected


def test_seed_of_the_server() -> None:
    seeds = {parsed({}).seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(seed is not None and 0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"temperature": "0.5"}, "temperature must be of type int or float, got '0.5'"),
        ({"temperature": None, "do_sample": True}, "temperature must be of type int or float, got None"),
        ({"top_k": 5.5}, "top_k must be of type int, got 5.5"),
        ({"top_k": None}, "top_k must be of type int, got None"),
        ({"n": True}, "n must be a whole number, got True"),
        ({"n": None}, "n must be a whole number, got None"),
        ({"ignore_eos": 1}, "ignore_eos must be of type bool, got 1"),
        ({"max_new_tokens": "5"}, "max_new_tokens must be at least 1, got '5'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": float("inf")}, "max_new_tokens must be at least 1, got inf"),
        ({"seed": "abc"}, "seed must be a whole number, got 'abc'"),
        ({"seed": float("inf")}, "seed must be a whole number, got inf"),
        ({"stop_sequences": [1]}, "stop_sequences must be a list of strings, got [1]"),
        ({"do_sample": "no"}, "do_sample must be true or false, got 'no'"),
        ({"do_sample": []}, "do_sample must be true or false, got []"),
        ({"num_beams": 2, "stream": True}, "beam search is only supported without streaming"),
        ({"best_of": 2, "do_sample": True, "stream": True}, "best_of is only supported without streaming"),
        ({"n": 2, "stream": True}, "n above 1 is only supported without streaming"),
    ],
)
def test_refusal(parameters: dict[str, Any], text: str) -> None:
    with pytest.raises(PayloadError) as raised:
        parsed(parameters)
    assert str(raised.value).startswith(f"Input parsing failed: {text}")


@pytest.mark.parametrize("inputs", ["", None, 5, ["a"], {"a": 1}, "\ud800"])
def test_inputs(inputs: Any) -> None:
    with pytest.raises(PayloadError, match=r"^Input parsing failed: inputs "):
        rolling_batch.parse({"inputs": inputs}, BATCH)


@pytest.mark.parametrize("payload", [{"stream": True}, {"parameters": {"stream": True}}, {"stream": "true"}])
def test_stream(payload: dict[str, Any]) -> None:
    request = rolling_batch.parse({"inputs": "a"} | payload, BATCH)
    assert request.stream
    assert request.generations[0].fields["logprobs"] == 1


def test_unknown_parameter_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        parsed({"unheard_of": 1})
    assert [record.message for record in caplog.records] == [
        "parameters without effect in rolling-batch mode: unheard_of"
    ]
