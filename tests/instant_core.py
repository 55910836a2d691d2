# SPDX-License-Identifier: Apache-2.0
"""vLLM's `AsyncLLM` without an engine process: a core in this process that invents tokens, a step at a time.

Detokenizer, log-probabilities, queues and serving objects are vLLM's own, so what a server does for a token can be
counted from the core to the socket.
"""

import asyncio
from typing import Any

import numpy as np
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FinishReason,
    logprobs,
    output_processor,
)
from vllm.v1.engine.core_client import EngineCoreClient
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.engine.output_processor import RequestState
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.outputs import LogprobsLists
from vllm.v1.serial_utils import MsgpackDecoder

FIRST_ID = 300
NUM_IDS = 256
"""Whole words of the demo model's vocabulary, in turn."""
_LOGPROBS = np.linspace(-0.25, -4.0, 21, dtype=np.float32)[None, :]
_RANKS = np.ones(1, dtype=np.int32)
_TURNS = 8
"""Of the event loop between two steps, so that whoever waits for a token has dealt with it."""


class InstantCore:
    """Stands for `AsyncMPClient`; every request gets one token per step until it has as many as it asked for."""

    engine_ranks_managed = (0,)
    num_together = 1
    """The first step waits for so many requests; how many steps there are does not depend on when each came, then."""

    def __init__(self) -> None:
        self.decoder = MsgpackDecoder(EngineCoreOutputs)
        self.resources = type("Resources", (), {"engine_dead": False})()
        self._running: dict[str, tuple[EngineCoreRequest, int]] = {}
        self._has_work = asyncio.Event()

    @classmethod
    def put_in_place(cls, monkeypatch: Any) -> None:
        """Has `AsyncLLM` use this class, and no function of vLLM's mended yet."""
        monkeypatch.setattr(EngineCoreClient, "make_async_mp_client", staticmethod(lambda **_: cls()))
        monkeypatch.setattr(logprobs, "convert_ids_list_to_tokens", convert_ids_list_to_tokens)
        monkeypatch.setattr(output_processor, "LogprobsProcessor", LogprobsProcessor)
        monkeypatch.setattr(output_processor, "RequestState", RequestState)

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        self._running[request.request_id] = (request, 0)
        self._has_work.set()

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self._running.pop(request_id, None)

    async def get_output_async(self) -> EngineCoreOutputs:
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        while len(self._running) < self.num_together and not any(made for _, made in self._running.values()):
            self._has_work.clear()
            await self._has_work.wait()
        return EngineCoreOutputs(outputs=[self._step(*one) for one in list(self._running.values())])

    async def get_supported_tasks_async(self) -> tuple[str, ...]:
        return ("generate",)

    async def reset_mm_cache_async(self) -> None:
        """There is none."""

    def shutdown(self, timeout: float | None = None) -> None:
        """There is no process."""

    def _step(self, request: EngineCoreRequest, num_made: int) -> EngineCoreOutput:
        params = request.sampling_params
        assert params is not None
        token_id = FIRST_ID + num_made % NUM_IDS
        is_last = num_made + 1 == params.max_tokens
        if is_last:
            del self._running[request.request_id]
        else:
            self._running[request.request_id] = (request, num_made + 1)
        likeliest = None
        if params.logprobs is not None:
            ids = np.array([[token_id, *range(FIRST_ID, FIRST_ID + params.logprobs)]], dtype=np.int32)
            likeliest = LogprobsLists(ids, _LOGPROBS[:, : ids.size], _RANKS)
        return EngineCoreOutput(
            request.request_id,
            [token_id],
            new_logprobs=likeliest,
            finish_reason=FinishReason.LENGTH if is_last else None,
            prefill_stats=PrefillStats() if num_made == 0 else None,
        )
