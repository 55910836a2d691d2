# SPDX-License-Identifier: Apache-2.0
"""An executor for vLLM that computes nothing: each step it waits for a while and invents a token per sequence.

Everything around it is real (scheduler, messages between the processes, detokenizer), so a server's own work can be
measured at a known pace. `benchmarks/serving.py` starts both servers with it, as `--distributed-executor-backend`.
"""

import os
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput

STEP_S = float(os.environ.get("BENCH_STEP_US", "0")) / 1e6
SEQUENCE_S = float(os.environ.get("BENCH_SEQUENCE_US", "0")) / 1e6
"""A step takes `STEP_S` and `SEQUENCE_S` for each sequence in it; an accelerator's time grows with the batch, too."""
FIRST_ID = 300
NUM_IDS = 256
"""The invented tokens are whole words of the demo model's vocabulary, in turn."""


class PacedExecutor(UniProcExecutor):
    """As vLLM's executor for one process, whose model is loaded and then never asked."""

    def _init_executor(self) -> None:
        super()._init_executor()
        self._prompt_lens: dict[str, int] = {}
        self._num_logprobs: dict[str, int] = {}
        self._made: ModelRunnerOutput | None = None
        self._next_at = 0.0

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """No: a step's tokens are there when it ends."""
        return False

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        """Waits until the step is over."""
        for request in scheduler_output.scheduled_new_reqs:
            params = request.sampling_params
            self._prompt_lens[request.req_id] = len(request.prompt_token_ids or ())
            if params is not None and params.logprobs is not None:
                self._num_logprobs[request.req_id] = params.logprobs
        for request_id in scheduler_output.finished_req_ids:
            self._prompt_lens.pop(request_id, None)
            self._num_logprobs.pop(request_id, None)
        self._made = self._tokens(scheduler_output)
        begun = max(self._next_at, time.monotonic())
        self._next_at = begun + STEP_S + SEQUENCE_S * len(self._made.req_ids)
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        return _done(None, non_block)

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """The tokens of the step."""
        made, self._made = self._made, None
        return _done(made, non_block)

    def take_draft_token_ids(self) -> None:
        """There is no draft model."""

    def _tokens(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        """One token for each sequence whose prompt has been read to its end."""
        cached = scheduled.scheduled_cached_reqs
        computed = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        computed |= {request.req_id: request.num_computed_tokens for request in scheduled.scheduled_new_reqs}
        ids = list(scheduled.num_scheduled_tokens)
        sampled: list[list[int]] = []
        for request_id, count in scheduled.num_scheduled_tokens.items():
            position = computed[request_id] + count
            is_read = position >= self._prompt_lens[request_id]
            sampled.append([FIRST_ID + position % NUM_IDS] if is_read else [])
        positions = {request_id: index for index, request_id in enumerate(ids)}
        return ModelRunnerOutput(ids, positions, sampled, logprobs=self._logprobs(ids, sampled))

    def _logprobs(self, ids: list[str], sampled: list[list[int]]) -> LogprobsLists | None:
        """As many per token as any of the sequences asks for, as vLLM's sampler has it."""
        asked = [self._num_logprobs[request_id] for request_id in ids if request_id in self._num_logprobs]
        if not asked:
            return None
        chosen = np.array([tokens[0] if tokens else 0 for tokens in sampled], dtype=np.int32)
        others = np.arange(max(asked), dtype=np.int32)[None, :] + FIRST_ID + NUM_IDS
        token_ids = np.hstack([chosen[:, None], np.repeat(others, len(ids), axis=0)])
        logprobs = np.log(np.random.default_rng(len(ids)).random(token_ids.shape, dtype=np.float32))
        return LogprobsLists(token_ids, logprobs, np.ones(len(ids), dtype=np.int32))


def _done(result: Any, non_block: bool) -> Any:
    if not non_block:
        return result
    future: Future[Any] = Future()
    future.set_result(result)
    return future
