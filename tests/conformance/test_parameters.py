# SPDX-License-Identifier: Apache-2.0
"""The payload contract's first half: what a payload's parameters come to in vLLM's sampling parameters."""

from dataclasses import replace
from typing import Any

import pytest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.sampling_params import BeamSearchParams, SamplingParams

from serving.engine import vllm_engine, vllm_errors
from serving.errors import PayloadError
from serving.schemas import dispatch
from serving.schemas.generation import GenerationRequest, LmiRequest
from serving.schemas.output import Defaults
from tests.conformance.cases import Case, cases

pytestmark = pytest.mark.vllm
CONTEXT = 512
_NOT_ASSERTED = {
    "seed",
    "logprobs",
    "output_kind",
    "prompt_logprobs",
    "skip_clone",
    "output_text_buffer_length",
    "skip_reading_prefix_cache",
}
"""Random in one mode, asked for only where the answer shows them, or derived; asserted where a case names them."""


@pytest.mark.parametrize("case", cases("schemas", "parameters"), ids=str)
def test_case(case: Case, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    if "error" in case.expect:
        with pytest.raises(PayloadError, match=case.expect["error"]):
            sampling_parameters(case.given)
        return
    params = sampling_parameters(case.given)
    expected = case.expect["engine"]
    if isinstance(params, BeamSearchParams):
        assert {name: getattr(params, name) for name in expected} == expected
        return
    neutral = SamplingParams()
    differing = {
        name: value
        for name in SamplingParams.__struct_fields__
        if not name.startswith("_") and (value := _shown(getattr(params, name))) != _shown(getattr(neutral, name))
    }
    kept = {name: value for name, value in differing.items() if name in expected or name not in _NOT_ASSERTED}
    assert kept == expected


def sampling_parameters(given: dict[str, Any]) -> SamplingParams | BeamSearchParams:
    """What the engine gets for the parameters of a case, whose prompt has 7 tokens unless it says otherwise."""
    payload = {"inputs": "hello world", "parameters": given["P"]} | given.get("payload", {})
    parsed = dispatch.parse(payload, Defaults(given.get("mode", "async")))
    assert isinstance(parsed, LmiRequest)
    (request,) = parsed.generations
    with vllm_errors.request_errors():
        body = vllm_engine.completion_request(replace(request, prompt=[1]), CONTEXT)
        assert isinstance(body, CompletionRequest)
        return vllm_engine.engine_parameters(body, {}, CONTEXT, given.get("prompt_tokens", 7), None)


def _shown(value: Any) -> Any:
    """Constraints as the fields that are set."""
    if type(value).__name__ == "StructuredOutputsParams":
        return {name: getattr(value, name) for name in ("json", "regex", "choice", "grammar", "json_object")
                if getattr(value, name) is not None}  # fmt: skip
    return value


def test_every_request_of_a_list() -> None:
    """Row 64: one request per prompt."""
    parsed = dispatch.parse({"inputs": ["hello", "world"]}, Defaults())
    assert isinstance(parsed, LmiRequest)
    assert [request.prompt for request in parsed.generations] == ["hello", "world"]
    assert all(isinstance(request, GenerationRequest) for request in parsed.generations)
