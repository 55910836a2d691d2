# SPDX-License-Identifier: Apache-2.0
"""LMI's `inputs` and `parameters` to prompts, fields of vLLM's completion request, and what the answer shows."""

from typing import Any

import pytest

from serving.errors import PayloadError
from serving.schemas import dispatch
from serving.schemas.generation import LmiRequest, OpenAIRequest
from serving.schemas.lmi import parse
from serving.schemas.output import Defaults

pytestmark = pytest.mark.pure
ASYNC = Defaults()


def parsed(parameters: dict[str, Any], **payload: Any) -> LmiRequest:
    """The request of a payload with one prompt and these parameters."""
    return parse({"inputs": "hello", "parameters": parameters} | payload, ASYNC)


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({}, {"max_tokens": 30}),
        ({"max_new_tokens": 3}, {"max_tokens": 3}),
        ({"max_new_tokens": None}, {"max_tokens": 30}),
        ({"max_new_tokens": "5"}, {"max_tokens": "5"}),
        ({"max_new_tokens": 7, "max_tokens": 3}, {"max_tokens": 3}),
        ({"do_sample": True, "temperature": 0.9}, {"max_tokens": 30, "temperature": 0.9}),
        ({"do_sample": False, "temperature": 0.9}, {"max_tokens": 30, "temperature": 0.0}),
        ({"do_sample": "false"}, {"max_tokens": 30, "temperature": 0.0}),
        ({"do_sample": 0}, {"max_tokens": 30, "temperature": 0.0}),
        ({"do_sample": None, "temperature": 0.9}, {"max_tokens": 30, "temperature": 0.9}),
        ({"stop_sequences": ["Lic"]}, {"max_tokens": 30, "stop": ["Lic"]}),
        ({"stop": "ment", "stop_sequences": ["Lic"]}, {"max_tokens": 30, "stop": ["ment", "Lic"]}),
        ({"stop": "ment"}, {"max_tokens": 30, "stop": "ment"}),
        ({"stop_token_ids": [367]}, {"max_tokens": 30, "stop_token_ids": [367]}),
        ({"ignore_eos_token": True}, {"max_tokens": 30, "ignore_eos": True}),
        ({"ignore_eos_token": True, "ignore_eos": False}, {"max_tokens": 30, "ignore_eos": False}),
        ({"truncate": 3}, {"max_tokens": 30, "truncate_prompt_tokens": 3, "truncation_side": "left"}),
        ({"guided_choice": ["a"]}, {"max_tokens": 30, "structured_outputs": {"choice": ["a"]}}),
        ({"guided_json": {"type": "object"}, "guided_whitespace_pattern": " "},
         {"max_tokens": 30, "structured_outputs": {"json": {"type": "object"}, "whitespace_pattern": " "}}),
        ({"structured_outputs": {"regex": "a+"}}, {"max_tokens": 30, "structured_outputs": {"regex": "a+"}}),
        ({"best_of": 1, "num_beams": 1, "use_beam_search": False}, {"max_tokens": 30}),
        ({"best_of": 3}, {"max_tokens": 30, "n": 3, "logprobs": 0}),
        ({"best_of": 3, "do_sample": False}, {"max_tokens": 30, "temperature": 0.0}),
        ({"best_of": 2, "n": 2}, {"max_tokens": 30, "n": 2, "logprobs": 0}),
        ({"n": 2, "details": True}, {"max_tokens": 30, "n": 2, "logprobs": 0}),
        ({"num_beams": 2, "length_penalty": 0.5, "early_stopping": True},
         {"max_tokens": 30, "n": 2, "use_beam_search": True, "temperature": 0.0, "length_penalty": 0.5}),
        ({"use_beam_search": True, "n": 3, "temperature": 0.7},
         {"max_tokens": 30, "n": 3, "use_beam_search": True, "temperature": 0.0}),
        ({"length_penalty": 0.5}, {"max_tokens": 30}),
        ({"use_beam_search": True, "best_of": 4},
         {"max_tokens": 30, "n": 4, "use_beam_search": True, "temperature": 0.0}),
        ({"num_beams": 2, "return_full_text": True, "details": True},
         {"max_tokens": 30, "n": 2, "use_beam_search": True, "temperature": 0.0, "logprobs": 1}),
        ({"n": "2"}, {"max_tokens": 30, "n": 2, "logprobs": 0}),
        ({"max_new_tokens": 0, "return_full_text": True}, {"max_tokens": 1}),
        ({"details": True}, {"max_tokens": 30, "logprobs": 1}),
        ({"details": True, "logprobs": 3}, {"max_tokens": 30, "logprobs": 3}),
        ({"details": True, "top_n_tokens": 4}, {"max_tokens": 30, "logprobs": 4}),
        ({"top_n_tokens": 4}, {"max_tokens": 30}),
        ({"details": True, "decoder_input_details": True}, {"max_tokens": 30, "logprobs": 1, "prompt_logprobs": 1}),
        ({"decoder_input_details": True}, {"max_tokens": 30}),
        ({"details": True, "return_full_text": True}, {"max_tokens": 30, "logprobs": 1, "prompt_logprobs": 1}),
        ({"return_full_text": True}, {"max_tokens": 30}),
        ({"return_full_text": True, "echo": True}, {"max_tokens": 30}),
        ({"seed": 42, "top_k": 5, "top_p": None}, {"max_tokens": 30, "seed": 42, "top_k": 5}),
        ({"watermark": True}, {"max_tokens": 30, "watermark": True}),
        ({"request_id": "x", "suffix": "y", "stream_options": {}, "adapters": "z", "return_tokens_as_token_ids": True},
         {"max_tokens": 30}),
    ],
)  # fmt: skip
def test_parameters_become_fields_of_vllm(parameters: dict[str, Any], fields: dict[str, Any]) -> None:
    given = dict(parameters)
    (generation,) = parsed(parameters).generations
    assert generation.fields == fields
    assert parameters == given, "the payload is left as it is"


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({}, {"return_full_text": False, "details": False, "top_n_tokens": 0, "seed": None}),
        ({"return_full_text": "true", "details": 1}, {"return_full_text": True, "details": True}),
        ({"echo": True}, {"return_full_text": True}),
        ({"top_n_tokens": 2, "seed": "42"}, {"top_n_tokens": 2, "seed": 42}),
        ({"seed": "x"}, {"seed": None}),
    ],
)
def test_what_the_answer_shows(parameters: dict[str, Any], shown: dict[str, Any]) -> None:
    request = parsed(parameters)
    assert {name: getattr(request, name) for name in shown} == shown


@pytest.mark.parametrize(
    ("top_level", "parameters", "stream"),
    [
        ({}, {}, False),
        ({"stream": True}, {}, True),
        ({"stream": "true"}, {}, True),
        ({"stream": 1}, {}, True),
        ({"stream": None}, {}, False),
        ({}, {"stream": True}, True),
        ({"stream": True}, {"stream": False}, True),
    ],
)
def test_stream(top_level: dict[str, Any], parameters: dict[str, Any], stream: bool) -> None:
    request = parsed(parameters, **top_level)
    assert request.stream is stream
    assert request.generations[0].fields.get("logprobs") == (1 if stream else None)


@pytest.mark.parametrize(
    ("inputs", "prompts", "is_batch"),
    [
        ("hi", ["hi"], False),
        (" ", [" "], False),
        (["hi"], ["hi"], False),
        (["a", "b"], ["a", "b"], True),
        ([5, 6, 7], [[5, 6, 7]], False),
    ],
)
def test_prompts(inputs: object, prompts: list[object], is_batch: bool) -> None:
    request = parse({"inputs": inputs}, ASYNC)
    assert [generation.prompt for generation in request.generations] == prompts
    assert request.is_batch is is_batch


@pytest.mark.parametrize(
    ("payload", "model"),
    [
        ({}, None),
        ({"model": "lmi"}, "lmi"),
        ({"parameters": {"model": "a1"}}, "a1"),
    ],
)
def test_model(payload: dict[str, Any], model: str | None) -> None:
    assert parse({"inputs": "hi"} | payload, ASYNC).generations[0].model == model


def test_prompt_among_the_parameters_wins() -> None:
    assert parsed({"prompt": "B"}).generations[0].prompt == "B"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"inputs": ""}, "inputs must not be empty"),
        ({"inputs": []}, "inputs must not be empty"),
        ({"inputs": None}, "inputs must be a string or a list of strings, got null"),
        ({"inputs": 5}, "inputs must be a string or a list of strings, got int"),
        ({"inputs": {"a": 1}}, "inputs must be a string or a list of strings, got dict"),
        ({"inputs": ["a", 5]}, "inputs must be a string, a list of strings or a list of token ids"),
        ({"inputs": [True]}, "inputs must be a string, a list of strings or a list of token ids"),
        ({"inputs": ["a", "b"], "stream": True}, "a list of inputs is only supported without streaming"),
        ({"inputs": "\ud800"}, "inputs is not valid Unicode: 'utf-8' codec can't encode character '\\ud800' in "
         "position 0: surrogates not allowed"),
        ({"parameters": None}, "parameters must be an object, got NoneType"),
        ({"parameters": [1]}, "parameters must be an object, got list"),
        ({"stream": "maybe"}, "stream must be true or false, got 'maybe'"),
        ({"parameters": {"details": []}}, "details must be true or false, got []"),
        ({"parameters": {"do_sample": 2}}, "do_sample must be true or false, got 2"),
        ({"parameters": {"max_new_tokens": 0}}, "max_new_tokens must be at least 1, got 0"),
        ({"parameters": {"top_n_tokens": -1}}, "top_n_tokens must be a whole number from 0, got -1"),
        ({"parameters": {"top_n_tokens": True}}, "top_n_tokens must be a whole number from 0, got True"),
        ({"stream": True, "parameters": {"best_of": 2}}, "best_of is only supported without streaming"),
        ({"stream": True, "parameters": {"num_beams": 2}}, "beam search is only supported without streaming"),
        ({"stream": True, "parameters": {"use_beam_search": True}}, "beam search is only supported without streaming"),
        ({"parameters": {"num_beams": 2, "stop": ["x"]}}, "stop is not supported with beam search"),
        ({"parameters": {"num_beams": 2, "guided_choice": ["x"]}},
         "structured_outputs is not supported with beam search"),
        ({"parameters": {"num_beams": 2, "details": True, "decoder_input_details": True}},
         "prompt_logprobs is not supported with beam search"),
        ({"stream": True, "parameters": {"prompt_logprobs": 1}},
         "prompt_logprobs are only supported without streaming"),
        ({"parameters": {"n": "x"}}, "n must be a whole number, got 'x'"),
        ({"parameters": {"n": 2.5}}, "n must be a whole number, got 2.5"),
        ({"parameters": {"n": None}}, "n must be a whole number, got None"),
        ({"parameters": {"max_new_tokens": 0, "return_full_text": True, "stream": True}},
         "max_new_tokens must be at least 1, got 0"),
        ({"parameters": {"best_of": "2"}}, "best_of must be a whole number from 0, got '2'"),
        ({"parameters": {"stop_sequences": [1]}}, "stop_sequences must be a list of strings, got [1]"),
        ({"parameters": {"stop": 1, "stop_sequences": ["a"]}}, "stop must be a list of strings, got 1"),
        ({"parameters": {"guided_regex": "a", "structured_outputs": {}}},
         "give structured_outputs or guided_json, guided_regex, guided_choice, guided_grammar, not both"),
    ],
)  # fmt: skip
def test_payload_that_is_refused(payload: dict[str, Any], message: str) -> None:
    with pytest.raises(PayloadError) as raised:
        parse({"inputs": "hi"} | payload, ASYNC)
    assert str(raised.value) == f"Input parsing failed: {message}"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"prompt": "a", "inputs": "b", "messages": []}, "completion"),
        ({"messages": []}, "chat"),
    ],
)
def test_openai_bodies_are_left_to_vllm(payload: dict[str, Any], kind: str) -> None:
    assert dispatch.parse(payload, ASYNC) == OpenAIRequest(kind, payload)


def test_inputs_come_before_messages() -> None:
    assert isinstance(dispatch.parse({"messages": [], "inputs": "a"}, ASYNC), LmiRequest)


def test_payload_without_a_known_key() -> None:
    with pytest.raises(PayloadError) as raised:
        dispatch.parse({"text": "a"}, ASYNC)
    assert str(raised.value) == "Input parsing failed: invalid payload. must contain prompt, inputs, or messages"


@pytest.mark.parametrize(
    ("parameters", "prompt_only", "max_tokens"),
    [
        ({"max_new_tokens": 0, "return_full_text": True}, True, 1),
        ({"max_new_tokens": 0, "return_full_text": True, "max_tokens": 50}, False, 50),
    ],
)
def test_prompt_alone(parameters: dict[str, Any], prompt_only: bool, max_tokens: int) -> None:
    request = parsed(parameters)
    assert (request.prompt_only, request.generations[0].fields["max_tokens"]) == (prompt_only, max_tokens)


@pytest.mark.parametrize("seed", ["\N{SUPERSCRIPT TWO}", "9" * 5000, "x", 1.5])
def test_seed_that_the_engine_will_refuse(seed: Any) -> None:
    assert parsed({"seed": seed}).seed is None


def test_several_streams_in_a_format_that_shows_one() -> None:
    payload = {"inputs": "a", "parameters": {"n": 2, "output_formatter": "sse"}}
    with pytest.raises(PayloadError, match="several sequences are only supported without streaming in this format"):
        parse(payload, Defaults(formats={"sse": True}))
