# SPDX-License-Identifier: Apache-2.0
"""vLLM's async engine behind the `Engine` protocol.

Started by `cli.py`; requests come from handlers. vLLM's own routes use the same gate and serving objects (`vllm_app`).
"""

import asyncio
import itertools
import logging
from argparse import Namespace
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from functools import partial
from typing import Any

from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import propagate_flash_late_interaction
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.exceptions import GracefulHTTPError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import BeamSearchParams, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from serving.config.limits import Limits
from serving.engine import vllm_app, vllm_fork, vllm_loras, vllm_prompts, vllm_steps, vllm_wire
from serving.engine.base import ModelFacts
from serving.engine.child_output import ChildOutput
from serving.engine.chunks import Vocabulary, chunk, stop_reason
from serving.engine.gate import EngineGate, Outputs
from serving.engine.start_failure import start_failure
from serving.engine.vllm_errors import odd_values, refuse, request_errors, vllm_errors
from serving.engine.vllm_loras import VllmLoras
from serving.engine.vllm_steps import Step
from serving.errors import EngineError, PayloadError, RequestTimeout
from serving.ledger import Ledger
from serving.schemas.generation import EmbeddingRequest, GenerationChunk, GenerationRequest, OpenAIRequest

logger = logging.getLogger(__name__)

_OPENAI = {
    "completion": (CompletionRequest, "openai_serving_completion", "create_completion"),
    "chat": (ChatCompletionRequest, "openai_serving_chat", "create_chat_completion"),
    "embedding": (EmbeddingCompletionRequest, "serving_embedding", "__call__"),
}
_DATA = b"data: "
_ERROR_EVENT = 'data: {"error"'


class VllmEngine:
    """vLLM's `AsyncLLM` with its serving objects, started once and closed once."""

    def __init__(self, args: Namespace, model_name: str, limits: Limits, ledger: Ledger, tool_fallback: bool):
        self._tool_fallback = tool_fallback
        self._ledger = ledger
        self._args = args
        self._model_name = model_name
        self._limits = limits
        self._output = ChildOutput()
        self._ids = itertools.count()
        self._client: AsyncLLM
        self.gate: EngineGate
        self.loras: VllmLoras
        self.state: State
        self.tasks: tuple[str, ...]
        self._vocabulary: Vocabulary

    async def start(self, beside_requests: bool = False, may_fork: bool = False) -> None:
        """Loads the model, builds vLLM's serving objects and warms one request up.

        Args:
            beside_requests: the server answers requests meanwhile, so the model is loaded on another thread.
            may_fork: nothing is in this process that the engine's must not have (`vllm_fork.py`).

        Raises:
            ConfigError: the engine does not start (`ENGINE`), with the cause and what to change.
        """
        try:
            if beside_requests:
                self._client = await asyncio.to_thread(self._launch, nullcontext())
            else:
                self._client = self._launch(vllm_fork.forking() if may_fork else nullcontext())
            await self._client.reset_mm_cache()
            self.tasks = tuple(await self._client.get_supported_tasks())
            loras = vllm_loras.lora_gate(self._client, self._args)
            self.gate = EngineGate(self._client, self._model_name, GracefulHTTPError, loras)
            self.gate.is_traced = await self._client.is_tracing_enabled()
            with self._ledger.phase("routes"):
                self.state = await vllm_app.build_state(self.gate, self._args, self.tasks, self._tool_fallback)
            self.loras = VllmLoras(self.state.openai_serving_models, self._client, self.gate)
            if "generate" in self.tasks:
                self._vocabulary = self._read_vocabulary()
                vllm_prompts.make_quicker(self._client.renderer)
                vllm_steps.make_cheaper(self.tokenizer, self._vocabulary)
                vllm_wire.make_cheaper(self._client.engine_core.decoder)
                with self._ledger.phase("warm-up"):
                    await self._warm_up()
            # From here on: the first request compiles a helper, which no client should have to be quick for.
            self.gate.limits = self._limits
        except Exception as error:
            logger.debug("engine start failed", exc_info=True)
            raise start_failure(error, self._output) from None

    async def close(self) -> None:
        """Ends the engine's processes."""
        if hasattr(self, "_client"):
            if self._client.output_handler is not None:
                # Else it takes the end of the engine for its death, and logs that at length.
                self._client.output_handler.cancel()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, partial(self._client.shutdown, timeout=0))
            self._output.join()

    @property
    def facts(self) -> ModelFacts:
        """What clients may ask about the loaded model."""
        model = self._client.model_config
        return ModelFacts(
            model.model, str(model.dtype).removeprefix("torch."), model.max_model_len, self._args.max_num_seqs
        )

    @property
    def is_dead(self) -> bool:
        """The engine process is gone."""
        return bool(self._client.errored)

    @property
    def num_in_flight(self) -> int:
        """Requests handed over and not finished."""
        return self.gate.num_in_flight

    @property
    def stalled_s(self) -> float:
        """As `EngineState.stalled_s`."""
        return self.gate.stalled_s

    @property
    def model_config(self) -> Any:
        """The configuration that vLLM made for the loaded model."""
        return self._client.model_config

    @property
    def tokenizer(self) -> Any:
        """The model's, which vLLM made safe to be called from several threads; None if it has none."""
        return self._client.renderer.tokenizer

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """As `Engine.generate`."""
        with request_errors():
            submitted = await self._submit(request)
        stop_ids = request.fields.get("stop_token_ids") or ()
        with vllm_errors():
            async with aclosing(submitted) as outputs:
                async for output in outputs:
                    if type(output) is Step:
                        made = output.chunk
                        if made.finish_reason is not None:
                            _check(made)
                            made.stop_reason = stop_reason(made.stop_reason, self._vocabulary, stop_ids)
                        yield made
                        continue
                    for choice in output.outputs:
                        _check(choice)
                        yield chunk(output, choice, request.num_top_tokens, self._vocabulary, stop_ids)

    async def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        """As `Engine.embed`."""
        with request_errors():
            serving = getattr(self.state, "serving_embedding", None)
            if serving is None:
                raise PayloadError("this model does not embed texts")
            names = [*serving.models.lora_requests, *(path.name for path in serving.models.base_model_paths)]
            if request.model is not None and request.model not in names:
                raise PayloadError(f"The model `{request.model}` does not exist.")
            body = EmbeddingCompletionRequest(
                input=list(request.inputs),
                model=request.model,
                truncate_prompt_tokens=request.truncate,
                dimensions=request.dimensions,
                use_activation=request.normalize,
            )
            processor = serving.get_io_processor(body)
            context = await serving._init_ctx(processor, body)
            await serving._preprocessing(processor, context)
            await serving._prepare_generators(context)
        with vllm_errors():
            await serving._collect_batch(context)
            processor.post_process_online(context)
        return [result.outputs.data.tolist() for result in context.final_res_batch]

    async def openai(self, request: OpenAIRequest, headers: Mapping[str, str]) -> bytes | AsyncGenerator[bytes]:
        """As `Engine.openai`."""
        answer = await self._openai(request, headers)
        if isinstance(answer, AsyncGenerator):
            return _objects(answer)
        if isinstance(answer, Response):
            return bytes(answer.body)
        return bytes(answer.model_dump_json(), "utf-8")

    async def openai_objects(self, request: OpenAIRequest, headers: Mapping[str, str]) -> Any:
        """As `Engine.openai_objects`."""
        answer = await self._openai(request, headers)
        return _events(answer) if isinstance(answer, AsyncGenerator) else answer

    async def _openai(self, request: OpenAIRequest, headers: Mapping[str, str]) -> Any:
        """What vLLM's serving object answers, unless it refuses."""
        model, serving_name, method = _OPENAI[request.kind]
        with request_errors():
            serving = getattr(self.state, serving_name, None)
            if serving is None:
                raise PayloadError(f"this model does not answer {request.kind} requests")
            with odd_values():
                body = model.model_validate(dict(request.body))
            if str(getattr(body, "encoding_format", "")).startswith("bytes"):
                raise PayloadError("encoding_format must be float or base64 here; /v1/embeddings knows the others")
            return refuse(await getattr(serving, method)(body, _raw_request(headers)))

    async def _submit(self, request: GenerationRequest) -> Outputs | AsyncGenerator[RequestOutput]:
        serving = getattr(self.state, "openai_serving_completion", None)
        if serving is None:
            raise PayloadError("this model does not generate text")
        limit = self._client.model_config.max_model_len
        with odd_values():
            body = completion_request(request, limit)
        inputs = refuse(await serving.render_completion_request(body))
        defaults = serving.default_sampling_params if request.use_generation_config else {}
        num_prompt_tokens = serving._extract_prompt_len(inputs[0])
        params = engine_parameters(body, defaults, limit, num_prompt_tokens, serving.override_max_tokens)
        request_id = f"lmi-{request.request_id or 'internal'}-{next(self._ids)}"
        lora_request = serving._maybe_get_adapters(body)
        if isinstance(params, BeamSearchParams):
            return self._within_limit(serving.beam_search(inputs[0], request_id, params, lora_request))
        if not request.num_top_tokens:
            vllm_steps.chosen_only(params)
        return self.gate.generate(inputs[0], params, request_id, lora_request=lora_request, priority=body.priority)

    async def _within_limit(self, outputs: AsyncGenerator[RequestOutput]) -> AsyncGenerator[RequestOutput]:
        """Beam search makes many short requests; the time that is set for an answer holds for all of them together."""
        seconds = self._limits.first_output_s
        try:
            async with asyncio.timeout(seconds), aclosing(outputs):
                async for output in outputs:
                    yield output
        except TimeoutError:
            raise RequestTimeout(f"no output within {seconds:g} s; predict_timeout bounds the wait") from None

    def _launch(self, starting: AbstractContextManager[None]) -> AsyncLLM:
        with self._ledger.phase("engine configuration"):
            engine_args = AsyncEngineArgs.from_cli_args(self._args)
            propagate_flash_late_interaction(self._args, engine_args)
            config = engine_args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        with self._output, starting, self._ledger.phase("engine"):
            return AsyncLLM.from_vllm_config(
                vllm_config=config,
                usage_context=UsageContext.OPENAI_API_SERVER,
                enable_log_requests=engine_args.enable_log_requests,
                aggregate_engine_logging=engine_args.aggregate_engine_logging,
                disable_log_stats=engine_args.disable_log_stats,
            )

    def _read_vocabulary(self) -> Vocabulary:
        """Special tokens and end tokens once, because the tokenizer makes their lists anew each time."""
        tokenizer = self._client.get_tokenizer()
        ends = self._client.model_config.try_get_generation_config().get("eos_token_id") or []
        end_ids = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        return Vocabulary(frozenset(tokenizer.all_special_ids), frozenset(end_ids), tokenizer.decode)

    async def _warm_up(self) -> None:
        """The first request with log-probabilities compiles a helper, which would cost a client seconds."""
        fields = {"max_tokens": 2, "min_tokens": 1, "temperature": 0.0, "logprobs": 1}
        try:
            async with aclosing(self.generate(GenerationRequest([0], fields, stream=True))) as chunks:
                async for _ in chunks:
                    pass
        except PayloadError as error:
            logger.info("no warm-up: %s", error)


def _check(choice: GenerationChunk | CompletionOutput) -> None:
    if choice.finish_reason == "error":
        raise EngineError("the engine failed on this request")


def completion_request(request: GenerationRequest, limit: int) -> CompletionRequest:
    """vLLM's request for ours, validated. `limit`, the model's context in tokens, caps how much is generated.

    Raises:
        ValidationError: pydantic's, a field has the wrong type.
    """
    fields = {**request.fields, "prompt": request.prompt, "model": request.model}
    body = CompletionRequest.model_validate(fields)
    # Set afterwards: vLLM's own stream has no place for prompt log-probabilities, LMI's has.
    body.stream = request.stream
    # LMI's clients send very large values to mean "as much as fits".
    body.max_tokens = min(body.max_tokens or 0, limit)
    return body


def engine_parameters(
    body: CompletionRequest, defaults: dict[str, Any], limit: int, num_prompt_tokens: int, cap: int | None
) -> SamplingParams | BeamSearchParams:
    """The engine's parameters for a request.

    Args:
        body: the request.
        defaults: of the model's generation config, for what the request leaves open.
        limit: the model's context, in tokens.
        num_prompt_tokens: how much of it the prompt takes.
        cap: the generation config's own limit to the answer, if it has one.

    Raises:
        VLLMClientError, ValueError: a value is out of range, or the prompt is too long.
    """
    num_tokens = get_max_tokens(
        limit,
        body.max_tokens,
        num_prompt_tokens,
        defaults,
        cap,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
    )
    if body.use_beam_search:
        return body.to_beam_search_params(num_tokens, defaults)
    return body.to_sampling_params(num_tokens, defaults)


async def _events(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """vLLM's event texts as they are; an error among them is raised."""
    async with aclosing(events):
        async for event in events:
            if event.startswith(_ERROR_EVENT):
                refuse(ErrorResponse.model_validate_json(event.removeprefix(_DATA.decode())))
            if not event.startswith(":"):
                yield event


async def _objects(events: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
    """The objects inside vLLM's event texts (`data: {...}`); an error before the first one is raised."""
    is_first = True
    async with aclosing(events):
        async for event in events:
            data = event.encode().strip().removeprefix(_DATA)
            if data == b"[DONE]" or data.startswith(b":"):
                continue
            if is_first and data.startswith(b'{"error"'):
                refuse(ErrorResponse.model_validate_json(data))
            is_first = False
            yield data


def _raw_request(headers: Mapping[str, str]) -> Request:
    """What vLLM's serving objects read ids and trace context from."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw, "query_string": b"", "state": {}})
