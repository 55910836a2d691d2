# SPDX-License-Identifier: Apache-2.0
"""TGI's request body, as `huggingface_hub` and `text-generation` send it: every parameter, unset ones as null."""

import random
from typing import Any

from serving.errors import PayloadError
from serving.schemas import parameters
from serving.schemas.generation import GenerationRequest, LmiRequest
from serving.schemas.parameters import count, encodable, flag, strings, without_null

_DEFAULT_MAX_NEW_TOKENS = 100
_SAMPLING = ("temperature", "top_k", "top_p")
_RENAMED = {"stop": "stop", "stop_sequences": "stop", "truncate": "truncate_prompt_tokens"}
_PASSED = ("temperature", "top_k", "top_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed")
_GRAMMARS = {"json": "json", "json_object": "json", "regex": "regex"}


def parse(payload: dict[str, Any], stream: bool, output_format: str) -> LmiRequest:
    """A body with `inputs` as a typed request.

    Args:
        payload: the decoded body.
        stream: the route streams, whatever the body says.
        output_format: `tgi`, or `tgi_list` for an answer in a list.

    Raises:
        PayloadError: naming the field, what is wrong with it and what would do.
    """
    inputs = payload.get("inputs")
    if not isinstance(inputs, str) or not inputs:
        raise PayloadError("`inputs` must be a string that is not empty")
    given = without_null(parameters.of(without_null(payload)))
    _refuse(given)
    details, full_text = flag(given, "details"), flag(given, "return_full_text")
    prefill, top_n_tokens = flag(given, "decoder_input_details"), count(given, "top_n_tokens")
    if prefill and stream:
        raise PayloadError("`decoder_input_details` == true is not supported when streaming tokens")
    fields = _fields(given)
    best_of = count(given, "best_of") or 1
    if best_of > 1:
        if stream:
            raise PayloadError("`best_of` != 1 is not supported when streaming tokens")
        if fields.get("temperature") == 0:
            raise PayloadError("you must use sampling when `best_of` is > 1")
        fields["n"] = best_of
        fields["logprobs"] = 0
    if details or stream:
        fields["logprobs"] = top_n_tokens
    if details and prefill:
        fields["prompt_logprobs"] = 1
    adapter = given.get("adapter_id")
    if adapter is not None and not isinstance(adapter, str):
        raise PayloadError(f"`adapter_id` must be a string, got {type(adapter).__name__}")
    request = GenerationRequest(encodable(inputs), fields, stream, top_n_tokens, model=adapter)
    return LmiRequest(
        generations=[request],
        return_full_text=full_text and not stream,
        details=details,
        top_n_tokens=top_n_tokens,
        seed=fields.get("seed"),
        output_format=output_format,
        num_sequences=best_of,
    )


def _refuse(given: dict[str, Any]) -> None:
    """What cannot be done is refused when it is asked for, not dropped."""
    if flag(given, "watermark"):
        raise PayloadError("`watermark` is not supported")
    if given.get("typical_p", 1.0) != 1.0:
        raise PayloadError("`typical_p` is not supported; use `top_p`")


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """The parameters in the words of vLLM's completion request."""
    fields: dict[str, Any] = {name: given[name] for name in _PASSED if name in given}
    fields["max_tokens"] = given.get("max_new_tokens", _DEFAULT_MAX_NEW_TOKENS)
    # TGI keeps a stop string in the text, and its clients cut it themselves.
    fields["include_stop_str_in_output"] = True
    for name, ours in _RENAMED.items():
        if name in given:
            fields[ours] = strings(given[name], name) if ours == "stop" else given[name]
    if "truncate" in given:
        fields["truncation_side"] = "left"
    if not flag(given, "do_sample") and not any(name in given for name in _SAMPLING):
        fields["temperature"] = 0.0
    elif "seed" not in fields:
        fields["seed"] = random.getrandbits(32)
    if (grammar := given.get("grammar")) is not None:
        kind = _GRAMMARS.get(str(grammar.get("type"))) if isinstance(grammar, dict) else None
        if kind is None or "value" not in grammar:
            raise PayloadError("`grammar` must be an object with a type, json or regex, and a value")
        fields["structured_outputs"] = {kind: grammar["value"]}
    return fields
