# SPDX-License-Identifier: Apache-2.0
"""A step's chunk is the one that would be made of vLLM's own output for it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.tokenizers import get_tokenizer
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason, logprobs, output_processor
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector, RequestState
from vllm.v1.outputs import LogprobsLists

from serving import demo
from serving.engine import vllm_steps
from serving.engine.chunks import Vocabulary, chunk
from serving.engine.vllm_steps import Step
from serving.schemas.generation import GenerationChunk

pytestmark = pytest.mark.vllm
TOKENIZER = get_tokenizer(str(demo.MODEL_DIR))
VOCABULARY = Vocabulary(frozenset(TOKENIZER.all_special_ids), frozenset(), TOKENIZER.decode)
PROMPT = [1, 300]


@pytest.fixture(autouse=True)
def cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "convert_ids_list_to_tokens", convert_ids_list_to_tokens)
    monkeypatch.setattr(output_processor, "LogprobsProcessor", LogprobsProcessor)
    monkeypatch.setattr(output_processor, "RequestState", RequestState)
    vllm_steps.make_cheaper(TOKENIZER, VOCABULARY)


def outputs(
    params: SamplingParams,
    steps: Sequence[Sequence[int]],
    reads: Sequence[bool],
    reason: FinishReason,
    stop: int | None,
) -> list[Any]:
    """What vLLM's queue gives for a request.

    Args:
        params: of the request.
        steps: the token ids of each; `reason` and `stop` come with the last one.
        reads: whether somebody asks for the output after each; if not, it is merged with the next one.
        reason: why the engine ended it.
        stop: the token that it stopped at.
    """
    processor, queue = opened(params)
    made = []
    for number, (ids, is_read) in enumerate(zip(steps, reads, strict=True)):
        is_last = number == len(steps) - 1
        processor.process_outputs([output(ids, params, reason if is_last else None, stop if is_last else None)])
        if (is_read or is_last) and (one := queue.get_nowait()) is not None:
            made.append(one)
    return made


def opened(params: SamplingParams) -> tuple[OutputProcessor, RequestOutputCollector]:
    """vLLM's output processor with one request, and the queue of that."""
    processor = OutputProcessor(TOKENIZER, log_stats=False)
    queue = RequestOutputCollector(params.output_kind, "r")
    processor.add_request(request(params), "prompt", None, 0, queue)
    return processor, queue


def request(params: SamplingParams, **values: Any) -> EngineCoreRequest:
    made = EngineCoreRequest("r", list(PROMPT), None, params, None, 0.0, None, None, None, **values)
    made.external_req_id = "r"
    return made


def output(
    ids: Sequence[int], params: SamplingParams, reason: FinishReason | None, stop: int | None
) -> EngineCoreOutput:
    likeliest = None
    if params.logprobs is not None:
        values = np.array([[-0.5 - position, -9.0] for position in range(len(ids))], dtype=np.float32).reshape(-1, 2)
        pairs = np.array([[token_id, 0] for token_id in ids], dtype=np.int32).reshape(-1, 2)
        likeliest = LogprobsLists(pairs, values, np.ones(len(ids), dtype=np.int32))
    return EngineCoreOutput("r", list(ids), likeliest, finish_reason=reason, stop_reason=stop)


def chunks(made: Sequence[Any]) -> list[GenerationChunk]:
    return [one.chunk if type(one) is Step else chunk(one, one.outputs[0], 0, VOCABULARY) for one in made]


ids = st.lists(st.integers(3, len(TOKENIZER) - 1), min_size=1, max_size=3)


@given(
    steps=st.lists(st.tuples(ids, st.booleans()), min_size=1, max_size=6),
    end=st.sampled_from([(FinishReason.LENGTH, None), (FinishReason.STOP, 300), (FinishReason.ABORT, None)]),
    kind=st.sampled_from([RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY]),
    likeliest=st.sampled_from([None, 0, 1]),
    stop=st.sampled_from([[], ["e"], ["th", "\N{EURO SIGN}"]]),
    shows_stop=st.booleans(),
)
def test_chunks(
    steps: list[tuple[list[int], bool]],
    end: tuple[FinishReason, int | None],
    kind: RequestOutputKind,
    likeliest: int | None,
    stop: list[str],
    shows_stop: bool,
) -> None:
    fields: dict[str, Any] = {"output_kind": kind, "logprobs": likeliest, "stop": stop}
    params = [SamplingParams(**fields, include_stop_str_in_output=shows_stop) for _ in range(2)]
    vllm_steps.chosen_only(params[1])
    theirs, ours = [outputs(one, *zip(*steps, strict=True), *end) for one in params]
    assert all(type(one) is Step for one in ours)
    assert [one.finished for one in ours] == [one.finished for one in theirs]
    assert all(list(one.prompt_token_ids or ()) == PROMPT for one in ours)
    assert chunks(ours) == chunks(theirs)


def test_end_without_a_token() -> None:
    params = SamplingParams(output_kind=RequestOutputKind.DELTA, logprobs=0)
    vllm_steps.chosen_only(params)
    _, last = outputs(params, [[300], []], [True, True], FinishReason.ABORT, None)
    assert (last.chunk.tokens, last.chunk.num_tokens, last.chunk.finish_reason) == ([], 0, "abort")


def test_who_gets_vllms() -> None:
    """One of several choices, and one whose prompt comes in pieces."""
    params = SamplingParams()
    vllm_steps.chosen_only(params)

    def kind(made: EngineCoreRequest, **others: Any) -> type[RequestState]:
        plain = {"prompt": None, "parent_req": None, "request_index": 0, "queue": None, "log_stats": False}
        arguments: dict[str, Any] = {**plain, "stream_interval": 1, **others}
        return type(output_processor.RequestState.from_new_request(tokenizer=TOKENIZER, request=made, **arguments))

    assert kind(request(params)) is vllm_steps._StepsState
    assert kind(request(params), parent_req=object()) is RequestState
    assert kind(request(params), stream_interval=2) is RequestState
    assert kind(request(params, resumable=True)) is RequestState
    assert kind(request(SamplingParams())) is RequestState


async def test_merged_in_the_queue() -> None:
    """Whoever waits gets both steps as one."""
    params = SamplingParams(output_kind=RequestOutputKind.DELTA)
    vllm_steps.chosen_only(params)
    processor, queue = opened(params)
    waiting = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    for token_id in (300, 301):
        processor.process_outputs([output([token_id], params, None, None)])
    both: Any = await waiting
    assert both.chunk.num_tokens == 2
    single = chunks(outputs(params, [[300], [301], []], [True] * 3, FinishReason.ABORT, None))
    assert both.chunk.text == "".join(one.text for one in single) != ""
