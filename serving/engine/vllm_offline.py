# SPDX-License-Identifier: Apache-2.0
"""vLLM's engines without a server, for `serving.offline`: `vllm.LLM` for scripts, the server's own for event loops."""

import asyncio
import itertools
import math
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from vllm import LLM, envs
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.lora.utils import get_adapter_absolute_path
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers import ChatParams
from vllm.renderers.chat_utils import load_chat_template
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import BeamSearchParams, RequestOutputKind

from serving.config.limits import Limits
from serving.engine.adapter_files import Checker
from serving.engine.child_output import ChildOutput
from serving.engine.lora_gate import stamp
from serving.engine.start_failure import one_line, start_failure
from serving.engine.vllm_engine import VllmEngine
from serving.engine.vllm_errors import user_errors
from serving.engine.vllm_json import GRAMMAR_BACKENDS
from serving.engine.vllm_sampling import Sampling, sampling
from serving.errors import AdapterRefused, EngineError, PayloadError
from serving.ledger import Ledger

_UNLIMITED = Limits(num_in_flight=2**31, first_output_s=math.inf, gap_s=math.inf, start_s=math.inf)
_NO_LORA = "adapters need an engine that was started with enable_lora=True"
_numbers = itertools.count(1_000_001)
"""The engine's numbers of adapters; the users of a wrapped `LLM` have their own, which begin with 1."""


class ScriptEngine:
    """A `vllm.LLM`: one batch after the other.

    Args:
        llm: the user's, or `start`'s.
        chat_template: text or path of a template that takes the place of the model's.
    """

    def __init__(self, llm: LLM, chat_template: str | None = None):
        self.llm = llm
        self._chat_template = load_chat_template(chat_template)
        config = llm.llm_engine.vllm_config.lora_config
        check = Checker(config.max_lora_rank, Path(llm.model_config.model)) if config is not None else None
        self._adapters: dict[str, tuple[object, LoRARequest]] = {}
        self._contents: dict[str, int] = {}
        self._check = check

    @classmethod
    def start(cls, args: Namespace) -> "ScriptEngine":
        """Loads the model.

        Raises:
            ConfigError: it does not load.
        """
        output = ChildOutput()
        try:
            with output:
                llm = LLM.from_engine_args(EngineArgs.from_cli_args(args))
        except Exception as error:  # whatever a model or an argument makes vLLM raise
            raise start_failure(error, output) from error
        return cls(llm, args.chat_template)

    @property
    def model_config(self) -> Any:
        """The configuration that vLLM made for the model."""
        return self.llm.model_config

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.llm.get_tokenizer()

    def sampling(self, given: Any, keywords: Mapping[str, Any], constraint: Mapping[str, Any]) -> Sampling:
        """As `vllm_sampling.sampling`, with the model's defaults."""
        backend = self.llm.llm_engine.vllm_config.structured_outputs_config.backend
        defaults = self.model_config.get_diff_sampling_param()
        return sampling(given, keywords, constraint, defaults, backend in GRAMMAR_BACKENDS)

    def run(self, prompts: Sequence[Any], are_chats: bool, params: Any, lora: str | None, progress: bool) -> list[Any]:
        """One of vLLM's finished `RequestOutput`s for each prompt.

        Args:
            prompts: what `LLM.generate` takes, or conversations.
            are_chats: they are conversations.
            params: of `sampling`.
            lora: directory or Hub id of an adapter.
            progress: a bar on standard error shows how far it is.

        Raises:
            PayloadError: vLLM refuses a prompt or a value; none of the others is answered then.
            AdapterRefused: the adapter does not load.
            EngineError: the engine failed.
        """
        request = self.load_lora(lora) if lora is not None else None
        with user_errors(), self._nothing_left():
            if isinstance(params, BeamSearchParams):
                plain = [self._tokens(prompt) if are_chats else _plain(prompt) for prompt in prompts]
                found = self.llm.beam_search(plain, params, lora_request=request, use_tqdm=progress)
                return [_as_output(one.sequences, self.tokenizer, params) for one in found]
            outputs: list[Any]
            if are_chats:
                outputs = self.llm.chat(prompts, params, progress, request, chat_template=self._chat_template)
            else:
                outputs = self.llm.generate(prompts, params, use_tqdm=progress, lora_request=request)
            return outputs

    def load_lora(self, where: str) -> LoRARequest:
        """Takes an adapter up; the same directory has the same number for as long as its files are the same.

        Raises:
            PayloadError: the engine takes no adapters.
            AdapterRefused: it does not load.
        """
        if self._check is None:
            raise PayloadError(_NO_LORA)
        directory = get_adapter_absolute_path(where)
        content = stamp(directory)
        before = self._adapters.get(directory)
        if before is not None and before[0] == content:
            return before[1]
        self._check(Path(directory))
        version = self._contents.get(directory, -1) + 1
        # Another text for the same directory: the prefix cache, which goes by it, has nothing of the files before.
        named = directory + "/." * version
        request = LoRARequest(named, next(_numbers), named)
        try:
            self.llm.llm_engine.add_lora(request)
        except Exception as error:  # the engine raises whatever reading the files made it raise
            raise AdapterRefused(one_line(error)) from error
        if before is not None:
            self.llm.llm_engine.remove_lora(before[1].lora_int_id)
        self._contents[directory] = version
        self._adapters[directory] = content, request
        return request

    def unload_lora(self, where: str) -> None:
        """Gives an adapter's memory back; one that is not loaded is no error."""
        if (known := self._adapters.pop(get_adapter_absolute_path(where), None)) is not None:
            self.llm.llm_engine.remove_lora(known[1].lora_int_id)

    def shutdown(self) -> None:
        """Ends the engine and its processes, and gives their memory back."""
        self.llm.llm_engine.engine_core.shutdown()
        if not envs.VLLM_ENABLE_V1_MULTIPROCESSING:
            cleanup_dist_env_and_memory()

    def _tokens(self, conversation: Any) -> TokensPrompt:
        """A conversation as tokens; beams take nothing else."""
        rendered: Any = self.llm._preprocess_chat([conversation], chat_template=self._chat_template)[0]
        return TokensPrompt(prompt_token_ids=rendered["prompt_token_ids"])

    @contextmanager
    def _nothing_left(self) -> Iterator[None]:
        """What is interrupted is aborted; otherwise the next call would get the answers of this one."""
        try:
            yield
        except BaseException:
            left = list(self.llm.llm_engine.output_processor.request_states)
            self.llm.llm_engine.abort_request(left, internal=True)
            raise


class LoopEngine:
    """The server's engine without routes, for programs with an event loop.

    Args:
        args: vLLM's namespace.
    """

    def __init__(self, args: Namespace):
        self._args = args
        self._engine = VllmEngine(args, args.model, _UNLIMITED, Ledger(), tool_fallback=False)
        self._chat_template = load_chat_template(args.chat_template)
        self._stamps: dict[str, object] = {}
        self._loading = asyncio.Lock()
        self._ids = itertools.count()

    async def start(self) -> None:
        """Loads the model; the loop goes on meanwhile.

        Raises:
            ConfigError: it does not load.
        """
        try:
            await self._engine.start(beside_requests=True)
        except BaseException:
            await self._engine.close()
            raise

    @property
    def model_config(self) -> Any:
        """The configuration that vLLM made for the model."""
        return self._engine.model_config

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._engine.tokenizer

    def sampling(self, given: Any, keywords: Mapping[str, Any], constraint: Mapping[str, Any]) -> Sampling:
        """As `vllm_sampling.sampling`, with the model's defaults."""
        backend = self._args.structured_outputs_config.backend
        defaults = self.model_config.get_diff_sampling_param()
        return sampling(given, keywords, constraint, defaults, backend in GRAMMAR_BACKENDS)

    async def outputs(
        self, prompt: Any, is_chat: bool, params: Any, lora: str | None, request_id: str | None, stream: bool
    ) -> AsyncGenerator[Any]:
        """vLLM's `RequestOutput`s: each with what one step adds, or one at the end.

        Args:
            prompt: a text, token ids, one of vLLM's prompts, or a conversation.
            is_chat: it is a conversation.
            params: of `sampling`.
            lora: directory or Hub id of an adapter.
            request_id: for `abort`.
            stream: an output for each step.

        Raises:
            PayloadError: vLLM refuses the prompt or a value.
            AdapterRefused: the adapter does not load.
            EngineDead, EngineError: the engine failed.
        """
        gate, request_id = self._engine.gate, request_id or f"offline-{next(self._ids)}"
        request = await self._lora_request(lora) if lora is not None else None
        with user_errors():
            rendered = await self._rendered(prompt, is_chat)
            if isinstance(params, BeamSearchParams):
                if stream:
                    raise PayloadError("beams cannot be streamed: the best one is known at the end")
                search = self._engine.state.openai_serving_completion.beam_search
                found = search(rendered, request_id, params, request)
            else:
                params = params.clone()
                params.output_kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
                found = gate.generate(rendered, params, request_id, lora_request=request)
            async with aclosing(found) as outputs:
                async for output in outputs:
                    if any(choice.finish_reason == "error" for choice in output.outputs):
                        raise EngineError("the engine failed on this request")
                    yield output

    async def abort(self, request_id: str) -> None:
        """Ends what runs under this id; whoever waits for it gets what there is."""
        await self._engine.gate.abort(request_id)

    async def load_lora(self, where: str) -> None:
        """As `ScriptEngine.load_lora`."""
        await self._lora_request(where)

    async def unload_lora(self, where: str) -> None:
        """As `ScriptEngine.unload_lora`, once the requests that use it are answered."""
        directory = await asyncio.to_thread(get_adapter_absolute_path, where)
        async with self._loading:
            self._stamps.pop(directory, None)
            await self._engine.loras.unload(directory)

    async def close(self) -> None:
        """Ends the engine's processes."""
        await self._engine.close()

    async def _lora_request(self, where: str) -> LoRARequest:
        if not self._args.enable_lora:
            raise PayloadError(_NO_LORA)
        directory = await asyncio.to_thread(get_adapter_absolute_path, where)
        async with self._loading:
            content = stamp(directory)
            if self._stamps.get(directory) != content:
                await self._engine.loras.load(directory, Path(directory))
                self._stamps[directory] = content
            return self._engine.loras.request(directory)

    async def _rendered(self, prompt: Any, is_chat: bool) -> Any:
        renderer: Any = self._engine.gate.renderer
        if not is_chat:
            return (await renderer.render_cmpl_async([parse_model_prompt(self.model_config, prompt)]))[0]
        options = {"add_generation_prompt": True, "continue_final_message": False, "tools": None, "tokenize": False}
        chat = ChatParams(chat_template=self._chat_template, chat_template_kwargs=options)
        # The template writes the special tokens.
        tokens = renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False)
        return (await renderer.render_chat_async([prompt], chat, tokens))[1][0]


def _plain(prompt: Any) -> Any:
    """A prompt as beams take it."""
    if isinstance(prompt, str | Mapping):
        return prompt
    return TokensPrompt(prompt_token_ids=list(prompt))


def _as_output(beams: Sequence[Any], tokenizer: Any, params: BeamSearchParams) -> RequestOutput:
    """The beams of one prompt, whose tokens begin with the prompt's, as samples have them."""
    prompt_ids = list(beams[0].orig_prompt["prompt_token_ids"]) if beams else []
    choices = []
    for index, beam in enumerate(beams):
        ids = beam.tokens[len(prompt_ids) :]
        is_whole = bool(ids) and ids[-1] == tokenizer.eos_token_id and not params.ignore_eos
        choices.append(
            CompletionOutput(
                index=index,
                text=tokenizer.decode(ids, skip_special_tokens=params.skip_special_tokens),
                token_ids=ids,
                cumulative_logprob=beam.cum_logprob,
                logprobs=beam.logprobs,
                finish_reason=beam.finish_reason or ("stop" if is_whole else "length"),
            )
        )
    return RequestOutput("beams", None, prompt_ids, None, choices, finished=True)
