# SPDX-License-Identifier: Apache-2.0
"""What vLLM makes of an engine step for a request whose chosen tokens are all that is shown: one of our chunks.

vLLM makes a `CompletionOutput` in a `RequestOutput`, of some thirty fields, from which a chunk would be made next
(docs/decisions/0018). Put in place by `vllm_engine.py`; the counterpart for all other requests is `chunks.py`.
"""

import uuid
from typing import Any

from vllm.outputs import RequestError, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreRequest, FinishReason, output_processor
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.engine.output_processor import RequestState

from serving.engine.chunks import Vocabulary
from serving.engine.vllm_tokens import ChosenTokens, keep_texts
from serving.schemas.generation import GenerationChunk

_CHOSEN_ONLY = f"chosen_tokens_{uuid.uuid4().hex}"
"""Of a request's `extra_args`, where clients may put what they like."""


class Step(RequestOutput):
    """An output that vLLM's queues take for theirs. It has what they and the gate read, and `chunk`.

    Attributes:
        chunk: what the step added, or the whole of an answer that is not streamed; its `stop_reason` is vLLM's.
    """

    def __init__(self, state: RequestState, chunk: GenerationChunk, is_last: bool):  # the rest would be read by nobody
        self.chunk = chunk
        self.finished = is_last
        self.prompt_token_ids = state.prompt_token_ids
        self.metrics = state.stats

    def add(self, next_output: RequestOutput, aggregate: bool) -> None:
        """Takes in the step after this one, which came before anybody asked for this one."""
        assert isinstance(next_output, Step)
        chunk, newer = self.chunk, next_output.chunk
        chunk.text += newer.text
        chunk.tokens += newer.tokens  # in place: a client that does not read may have very many
        chunk.num_tokens += newer.num_tokens
        chunk.finish_reason, chunk.stop_reason = newer.finish_reason, newer.stop_reason
        chunk.cumulative_logprob = newer.cumulative_logprob
        self.finished = next_output.finished


class _StepsState(RequestState):
    """vLLM's state of a request, whose outputs are `Step`s."""

    def make_request_output(
        self,
        new_token_ids: list[int],
        pooling_output: Any,
        finish_reason: FinishReason | None,
        stop_reason: int | str | None,
        kv_transfer_params: dict[str, Any] | None = None,
        ec_transfer_params: dict[str, Any] | None = None,
        error: RequestError | None = None,
    ) -> Step | None:
        """As vLLM's."""
        is_last, is_delta = finish_reason is not None, self.output_kind is RequestOutputKind.DELTA
        if not is_last and not is_delta:
            return None
        detokenizer, collector = self.detokenizer, self.logprobs_processor
        assert detokenizer is not None
        assert collector is not None
        num_tokens = len(new_token_ids) if is_delta else detokenizer.num_output_tokens()
        tokens: Any = collector.logprobs
        chunk = GenerationChunk(
            0,
            detokenizer.get_next_output_text(is_last, is_delta),
            tokens[-num_tokens:] if tokens and num_tokens else [],
            num_tokens,
            str(finish_reason) if is_last else None,
            stop_reason if is_last else None,
            self.prompt_len,
            collector.cumulative_logprob,
        )
        return Step(self, chunk, is_last)


def chosen_only(params: SamplingParams) -> None:
    """Has the outputs of a request carry our chunk (of one choice) or at least our `Token`s (of several)."""
    if params.prompt_logprobs is None and (params.stream_interval or 1) == 1:
        params.extra_args = {**(params.extra_args or {}), _CHOSEN_ONLY: True}


def make_cheaper(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Puts this and what is in `vllm_tokens.py` in place of vLLM's, for the engine of this process.

    Args:
        tokenizer: the model's, as vLLM's output processor has it.
        vocabulary: which tokens are special.
    """
    keep_texts(tokenizer, vocabulary)
    output_processor.LogprobsProcessor = _LogprobsProcessors
    output_processor.RequestState = _RequestStates


class _LogprobsProcessors:
    """Stands for vLLM's class, of which one classmethod is called."""

    @staticmethod
    def from_new_request(tokenizer: Any, request: EngineCoreRequest) -> LogprobsProcessor:
        kind = ChosenTokens if _is_chosen_only(request, tokenizer) else LogprobsProcessor
        return kind.from_new_request(tokenizer=tokenizer, request=request)


class _RequestStates:
    """Stands for vLLM's class, of which one classmethod is called."""

    @staticmethod
    def from_new_request(tokenizer: Any, request: EngineCoreRequest, **others: Any) -> RequestState:
        is_plain = others["parent_req"] is None and others["stream_interval"] == 1 and not request.resumable
        kind = _StepsState if is_plain and _is_chosen_only(request, tokenizer) else RequestState
        return kind.from_new_request(tokenizer=tokenizer, request=request, **others)


def _is_chosen_only(request: EngineCoreRequest, tokenizer: Any) -> bool:
    params = request.sampling_params
    is_marked = params is not None and params.detokenize and _CHOSEN_ONLY in (params.extra_args or ())
    return is_marked and tokenizer is ChosenTokens.texts.tokenizer
