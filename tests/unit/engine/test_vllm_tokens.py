# SPDX-License-Identifier: Apache-2.0
"""Cheaper tokens are the same tokens: texts and log-probabilities beside vLLM's own functions."""

import importlib.util
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import get_tokenizer
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine import logprobs, output_processor
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists

from serving import demo
from serving.engine import vllm_steps, vllm_tokens
from serving.engine.chunks import Vocabulary
from serving.engine.vllm_tokens import TokenTexts

pytestmark = pytest.mark.vllm
TOKENIZER = get_tokenizer(str(demo.MODEL_DIR))
NUM_IDS = len(TOKENIZER)
VOCABULARY = Vocabulary(frozenset(TOKENIZER.all_special_ids), frozenset(), TOKENIZER.decode)
CHARACTERS = TOKENIZER.encode(
    "\N{PILE OF POO}\N{EURO SIGN}\N{LATIN SMALL LETTER E WITH ACUTE}", add_special_tokens=False
)
"""Bytes of characters, none of which is a token of its own."""


@pytest.fixture(autouse=True)
def cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "convert_ids_list_to_tokens", convert_ids_list_to_tokens)
    monkeypatch.setattr(output_processor, "LogprobsProcessor", LogprobsProcessor)
    vllm_steps.make_cheaper(TOKENIZER, VOCABULARY)


def processor(params: SamplingParams, tokenizer: Any = TOKENIZER) -> LogprobsProcessor:
    """What vLLM's output processor makes for a request."""
    request: Any = SimpleNamespace(sampling_params=params)
    return output_processor.LogprobsProcessor.from_new_request(tokenizer=tokenizer, request=request)


def test_texts() -> None:
    ids = list(range(NUM_IDS))
    for _ in range(2):
        assert logprobs.convert_ids_list_to_tokens(TOKENIZER, ids) == convert_ids_list_to_tokens(TOKENIZER, ids)
    assert logprobs.convert_ids_list_to_tokens(TOKENIZER, []) == []


def test_texts_of_another_tokenizer() -> None:
    class Shouting:
        all_special_ids = ()

        def decode(self, ids: list[int]) -> str:
            return "A" * ids[0]

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["A"] * len(ids)

    texts = TokenTexts(TOKENIZER)
    assert texts.of(Shouting(), [1, 2]) == ["A", "AA"]
    assert not texts


tokens = st.lists(
    st.one_of(st.sampled_from(CHARACTERS), st.sampled_from(TOKENIZER.all_special_ids), st.integers(0, NUM_IDS - 1)),
    min_size=1,
    max_size=12,
)


@given(steps=st.lists(tokens, min_size=1, max_size=4), data=st.data())
def test_chosen_tokens(steps: list[list[int]], data: st.DataObject) -> None:
    """Any tokens in any steps: what vLLM's own collector says of the chosen ones, characters in parts included."""
    params = SamplingParams(logprobs=1)
    plain = processor(params)
    vllm_steps.chosen_only(params)
    cheap = processor(params)
    for ids in steps:
        values = data.draw(st.lists(st.floats(-50, 0, width=32), min_size=len(ids), max_size=len(ids)))
        lists = LogprobsLists(
            np.array([[token_id, (token_id + 1) % NUM_IDS] for token_id in ids], dtype=np.int32),
            np.array([[value, -1.0] for value in values], dtype=np.float32),
            np.ones(len(ids), dtype=np.int32),
        )
        for one in (plain, cheap):
            one._update_sample_logprobs(lists)
    made: Any = cheap.logprobs
    chosen = [next(iter(ranked.items())) for ranked in plain.logprobs or ()]
    assert [(token.id, token.text, token.logprob) for token in made] == [
        (token_id, one.decoded_token, one.logprob) for token_id, one in chosen
    ]
    assert [token.is_special for token in made] == [token.id in TOKENIZER.all_special_ids for token in made]
    assert cheap.cumulative_logprob == pytest.approx(plain.cumulative_logprob)


@pytest.mark.parametrize(
    "params",
    [SamplingParams(logprobs=0, prompt_logprobs=1), SamplingParams(logprobs=0, stream_interval=2)],
    ids=["log-probabilities of the prompt", "several steps in one"],
)
def test_who_gets_vllms(params: SamplingParams) -> None:
    vllm_steps.chosen_only(params)
    assert type(processor(params)) is LogprobsProcessor


def test_who_gets_chosen_tokens() -> None:
    params = SamplingParams(logprobs=0, extra_args={"a": 1})
    vllm_steps.chosen_only(params)
    assert params.extra_args is not None
    assert params.extra_args["a"] == 1
    assert isinstance(processor(params), vllm_tokens.ChosenTokens)
    assert type(processor(params, tokenizer=None)) is LogprobsProcessor


def test_no_client_can_ask_for_them() -> None:
    """The name is another one in every process, as it is each time that the module is loaded."""
    spec = importlib.util.spec_from_file_location("steps_elsewhere", vllm_steps.__file__)
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    assert re.fullmatch(r"chosen_tokens_[0-9a-f]{32}", elsewhere._CHOSEN_ONLY)
    asked = SamplingParams(logprobs=0, extra_args={elsewhere._CHOSEN_ONLY: True})
    assert type(processor(asked)) is LogprobsProcessor


def test_the_plain_tokenizer_says_the_same() -> None:
    plain = AutoTokenizer.from_pretrained(demo.MODEL_DIR)
    assert TokenTexts(TOKENIZER)[CHARACTERS[0]] == plain.decode([CHARACTERS[0]])
