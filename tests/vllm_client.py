# SPDX-License-Identifier: Apache-2.0
"""vLLM's engine client without an engine: its real configuration and renderer, and answers that are scripted."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers import renderer_from_config
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.input_processor import InputProcessor

from serving.engine.vllm_app import parse_arguments


class ScriptedClient:
    """Answers every request with the same pieces, one engine step each.

    Args:
        model: directory of the model whose tokenizer and templates count.
        pieces: of the answer.
    """

    errored = False
    is_running = True
    dead_error = RuntimeError("dead")

    def __init__(self, model: str, pieces: Sequence[str]):
        self.args = parse_arguments(["--model", model, "--kv-cache-memory-bytes", "8M", "--enforce-eager"])
        self.vllm_config = AsyncEngineArgs.from_cli_args(self.args).create_engine_config()
        self.model_config = self.vllm_config.model_config
        self.renderer = renderer_from_config(self.vllm_config)
        self.input_processor = InputProcessor(self.vllm_config, self.renderer)
        self.io_processor = None
        self._pieces = pieces

    async def is_tracing_enabled(self) -> bool:
        return False

    def check_admission(self, num_requests: int = 1) -> None:
        """There is always room."""

    async def generate(self, prompt: Any, params: Any, request_id: str, **_: Any) -> AsyncGenerator[RequestOutput]:
        is_delta = params.output_kind is RequestOutputKind.DELTA
        texts = self._pieces if is_delta else ["".join(self._pieces)]
        ids = list(range(5, 5 + len(self._pieces)))
        for number, text in enumerate(texts):
            is_last = number == len(texts) - 1
            choice = CompletionOutput(
                index=0,
                text=text,
                token_ids=[ids[number]] if is_delta else ids,
                cumulative_logprob=None,
                logprobs=None,
                finish_reason="stop" if is_last else None,
            )
            yield RequestOutput(request_id, None, list(prompt["prompt_token_ids"]), None, [choice], is_last)
