# SPDX-License-Identifier: Apache-2.0
"""Sampling parameters of calls without a server."""

import copy
import json
import logging
from typing import Any

import pytest
from vllm.sampling_params import BeamSearchParams, SamplingParams, StructuredOutputsParams

from serving.engine.vllm_sampling import sampling
from serving.errors import PayloadError

pytestmark = pytest.mark.vllm
MODEL = {"temperature": 0.6, "top_k": 20}


def made(given: Any = None, constraint: dict[str, Any] | None = None, **keywords: Any) -> Any:
    return sampling(given, keywords, constraint or {}, MODEL)


def test_defaults_of_the_model() -> None:
    params = made().params
    assert (params.temperature, params.top_k, params.max_tokens, params.n) == (0.6, 20, None, 1)
    assert made(temperature=0.9, top_k=None).params.temperature == 0.9


def test_the_models_own_limit() -> None:
    assert sampling(None, {}, {}, {"max_tokens": 3}).params.max_tokens == 3


def test_structured_outputs_as_a_mapping() -> None:
    assert made(structured_outputs={"regex": "a"}).params.structured_outputs.regex == "a"


def test_an_object_wins(caplog: pytest.LogCaptureFixture) -> None:
    given = SamplingParams(temperature=0.3, stop=["x"], seed=5)
    with caplog.at_level(logging.WARNING):
        params = made(given, temperature=0.9, max_tokens=7, top_p=0.5).params
    assert (params.temperature, params.max_tokens, params.top_p, params.stop, params.seed) == (0.3, 7, 0.5, ["x"], 5)
    assert params.top_k == SamplingParams().top_k, "the object says everything that no keyword does"
    assert "temperature=0.9 has no effect: sampling_params says 0.3" in caplog.text
    assert made(given).params.max_tokens == SamplingParams().max_tokens


def test_a_mapping_wins() -> None:
    assert made({"temperature": 0.3}, temperature=0.9).params.temperature == 0.3


def test_the_users_object_stays() -> None:
    outputs = StructuredOutputsParams(regex="a")
    given = SamplingParams(n=2, stop=["x"], logit_bias={3: 1.0}, structured_outputs=outputs)
    before = copy.deepcopy(given)
    params = made(given, best_of=4).params
    params.stop.append("y")
    params.logit_bias[4] = 1.0
    params.structured_outputs._backend = "xgrammar"
    assert repr(given) == repr(before)
    assert outputs._backend is None
    assert given.structured_outputs is outputs


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"n": 3}, (3, 3, None)),
        ({"best_of": 3}, (3, 1, 0)),
        ({"best_of": 4, "n": 2}, (4, 2, 0)),
        ({"best_of": 4, "n": 2, "logprobs": 2}, (4, 2, 2)),
        ({"best_of": 1}, (1, 1, None)),
    ],
    ids=str,
)
def test_best_of(keywords: dict[str, Any], expected: tuple[int, int, int | None]) -> None:
    chosen = made(**keywords)
    assert (chosen.params.n, chosen.count, chosen.params.logprobs) == expected
    assert chosen.is_ranked == (chosen.params.n > chosen.count)


def test_beams() -> None:
    chosen = made(use_beam_search=True, n=2, best_of=4, max_tokens=9, length_penalty=0.5)
    assert chosen.params == BeamSearchParams(beam_width=4, max_tokens=9, length_penalty=0.5)
    assert (chosen.count, chosen.is_ranked) == (2, False)


def test_beams_by_an_object() -> None:
    given = BeamSearchParams(beam_width=3, max_tokens=5)
    chosen = made(given)
    assert (chosen.params, chosen.count) == (given, 3)
    assert chosen.params is not given


def test_early_stopping(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made(use_beam_search=True, max_tokens=5, early_stopping=True)
    assert "early_stopping=True has no effect" in caplog.text


def test_output_types() -> None:
    outputs = made(None, {"regex": "[0-9]"}).params.structured_outputs
    assert outputs.regex == "[0-9]"
    outputs = made(
        None, {"json": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    ).params.structured_outputs
    assert "root ::=" in outputs.grammar
    plain = sampling(None, {}, {"json": {"type": "integer"}}, {}, writes_grammar=False).params.structured_outputs
    assert json.loads(plain.json)["type"] == "integer"


@pytest.mark.parametrize(
    ("given", "constraint", "keywords", "text"),
    [
        (None, {}, {"temprature": 1}, "no sampling parameter temprature"),
        (None, {}, {"output_kind": 1}, "no sampling parameter output_kind"),
        (None, {}, {"top_p": 7}, "^top_p must be in"),
        (None, {}, {"n": 3, "best_of": 2}, "best_of=2 must be at least n=3"),
        (None, {}, {"length_penalty": 0.5}, "use_beam_search=True"),
        (None, {}, {"use_beam_search": True}, "needs max_tokens"),
        (None, {}, {"use_beam_search": True, "max_tokens": 3, "top_p": 0.5}, "top_p has no effect on beams"),
        (None, {"regex": "a"}, {"use_beam_search": True, "max_tokens": 3}, "output types"),
        (None, {"regex": "a"}, {"structured_outputs": StructuredOutputsParams(regex="b")}, "exclude each other"),
        (None, {"json": {"type": "nope"}}, {}, "nope|type"),
        (BeamSearchParams(beam_width=2, max_tokens=3), {}, {"n": 3}, "n has no effect beside BeamSearchParams"),
        (BeamSearchParams(beam_width=2, max_tokens=3), {"regex": "a"}, {}, "an output type has no effect"),
    ],
    ids=str,
)
def test_refused(given: Any, constraint: dict[str, Any], keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(PayloadError, match=text):
        made(given, constraint, **keywords)
