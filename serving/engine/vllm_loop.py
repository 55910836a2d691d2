# SPDX-License-Identifier: Apache-2.0
"""The server's engine without routes, for programs with an event loop. Behind `serving.offline.AsyncModel`."""

import asyncio
import itertools
import math
from argparse import Namespace
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.lora.utils import get_adapter_absolute_path
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers import ChatParams
from vllm.renderers.chat_utils import load_chat_template
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import BeamSearchParams, RequestOutputKind

from serving.config.limits import Limits
from serving.engine.lora_gate import stamp
from serving.engine.lora_places import NO_LORA, Places, numbers
from serving.engine.vllm_engine import VllmEngine
from serving.engine.vllm_errors import CLOSED, engine_errors, user_errors
from serving.engine.vllm_sampling import Sampling, sampling_of
from serving.errors import EngineError, PayloadError
from serving.ledger import Ledger

_UNLIMITED = Limits(num_in_flight=2**31, first_output_s=math.inf, gap_s=math.inf, start_s=math.inf)


@dataclass(eq=False)
class _Call:
    """One prompt that is being answered.

    Attributes:
        is_aborted: nobody wants more of it.
        search: of beams, which the engine knows as many short requests.
    """

    is_aborted: bool = False
    search: asyncio.Task[Any] | None = None


@dataclass(eq=False)
class _Adapter:
    """An adapter in the engine, with the files that it had then.

    Attributes:
        name: by which the engine knows it; no other content of its directory ever has it.
        stamp: of its files.
        num_users: calls that use it, or are about to.
        is_free: nobody does.
    """

    name: str
    stamp: object
    num_users: int = 0
    is_free: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self) -> None:
        self.num_users += 1
        self.is_free.clear()

    def leave(self) -> None:
        self.num_users -= 1
        if self.num_users == 0:
            self.is_free.set()


class LoopEngine:
    """Answers prompts side by side.

    Args:
        args: vLLM's namespace.

    Attributes:
        sampling: the parameters of a call on this model (`vllm_sampling.sampling_of`), once it is started.
    """

    sampling: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], Sampling]

    def __init__(self, args: Namespace):
        self._args = args
        self._engine = VllmEngine(args, args.model, _UNLIMITED, Ledger(), tool_fallback=False)
        self._chat_template = load_chat_template(args.chat_template)
        self._ids = itertools.count()
        self._calls: defaultdict[str, set[_Call]] = defaultdict(set)
        self._is_closed = False
        self._places = Places(get_adapter_absolute_path)
        self._adapters: dict[str, _Adapter] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._retiring: set[asyncio.Task[None]] = set()

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
        # Here, because the generation config is a file to read.
        backend = self._args.structured_outputs_config.backend
        self.sampling = await asyncio.to_thread(sampling_of, self.model_config, backend)

    @property
    def model_config(self) -> Any:
        """The configuration that vLLM made for the model."""
        return self._engine.model_config

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._engine.tokenizer

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
            EngineDead, EngineError: the engine failed, or was shut down.
        """
        if self._is_closed:
            raise EngineError(CLOSED)
        if stream and isinstance(params, BeamSearchParams):
            raise PayloadError("beams cannot be streamed: the best one is known at the end")
        request_id = request_id or f"offline-{next(self._ids)}"
        call = _Call()
        self._calls[request_id].add(call)
        try:
            async with self._adapter(lora) as request:
                with user_errors():
                    rendered = await self._rendered(prompt, is_chat)
                if call.is_aborted:
                    yield _nothing(request_id)
                elif isinstance(params, BeamSearchParams):
                    yield await self._beams(call, rendered, params, request_id, request)
                else:
                    async with aclosing(self._sampled(rendered, params, request_id, request, stream)) as outputs:
                        async for output in outputs:
                            yield output
        finally:
            self._calls[request_id].discard(call)
            if not self._calls[request_id]:
                del self._calls[request_id]

    async def abort(self, request_id: str) -> None:
        """Ends what runs under this id; whoever waits for it gets what there is."""
        for call in self._calls.get(request_id, ()):
            call.is_aborted = True
            if call.search is not None:
                call.search.cancel()
        await self._engine.gate.abort(request_id)

    async def load_lora(self, where: str) -> None:
        """As `ScriptEngine.load_lora`."""
        async with self._adapter(where):
            pass

    async def unload_lora(self, where: str) -> None:
        """Gives an adapter's memory back once the calls that use it are answered, also if nobody waits for that."""
        directory = await self.directory(where)
        async with self._locks[directory]:
            known = self._adapters.pop(directory, None)
        if known is not None:
            await asyncio.shield(self._retire(known))

    async def directory(self, where: str) -> str:
        """The one spelling of an adapter's directory."""
        return await asyncio.to_thread(self._places.directory, where)

    async def close(self) -> None:
        """Ends the engine's processes; whoever waits for an answer gets what there is."""
        if not self._is_closed:
            self._is_closed = True
            for request_id in list(self._calls):
                await self.abort(request_id)
            for task in self._retiring:
                task.cancel()
        await self._engine.close()

    async def _sampled(
        self, rendered: Any, params: Any, request_id: str, request: LoRARequest | None, stream: bool
    ) -> AsyncGenerator[Any]:
        params = params.clone()
        params.output_kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        errors = user_errors  # until the first output, which vLLM checks the request for
        async with aclosing(self._engine.gate.generate(rendered, params, request_id, lora_request=request)) as outputs:
            while True:
                with errors():
                    output = await anext(outputs, None)
                if output is None:
                    return
                if any(choice.finish_reason == "error" for choice in output.outputs):
                    raise EngineError("the engine failed on this request")
                yield output
                errors = engine_errors

    async def _beams(
        self, call: _Call, rendered: Any, params: BeamSearchParams, request_id: str, request: LoRARequest | None
    ) -> Any:
        search = self._engine.state.openai_serving_completion.beam_search

        async def found() -> Any:
            with user_errors():
                async with aclosing(search(rendered, request_id, params, request)) as outputs:
                    return [output async for output in outputs][-1]

        call.search = asyncio.create_task(found())
        try:
            return await call.search
        except asyncio.CancelledError:
            if call.is_aborted and call.search.cancelled():
                return _nothing(request_id)
            raise
        finally:
            call.search.cancel()

    @asynccontextmanager
    async def _adapter(self, where: str | None) -> AsyncIterator[LoRARequest | None]:
        """The adapter as the engine knows it, which is not taken away while the block runs."""
        if where is None:
            yield None
            return
        if not self._args.enable_lora:
            raise PayloadError(NO_LORA)
        directory = await self.directory(where)
        adapter = self._adapters.get(directory)
        if adapter is None or adapter.stamp != stamp(directory):
            adapter = await self._loaded(directory)
        adapter.enter()
        try:
            yield self._engine.loras.request(adapter.name)
        finally:
            adapter.leave()

    async def _loaded(self, directory: str) -> _Adapter:
        """Takes the files of a directory up as they are now; those of before go when nobody uses them any more."""
        async with self._locks[directory]:
            content, before = stamp(directory), self._adapters.get(directory)
            if before is not None and before.stamp == content:
                return before
            made = _Adapter(f"{directory}#{next(numbers)}", content)
            made.is_free.set()
            await self._engine.loras.load(made.name, Path(directory))
            self._adapters[directory] = made
        if before is not None:
            self._retire(before)
        return made

    def _retire(self, adapter: _Adapter) -> asyncio.Task[None]:
        async def retire() -> None:
            await adapter.is_free.wait()
            await self._engine.loras.unload(adapter.name)

        task = asyncio.create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)
        return task

    async def _rendered(self, prompt: Any, is_chat: bool) -> Any:
        renderer: Any = self._engine.gate.renderer
        if not is_chat:
            return (await renderer.render_cmpl_async([parse_model_prompt(self.model_config, prompt)]))[0]
        options = {"add_generation_prompt": True, "continue_final_message": False, "tools": None, "tokenize": False}
        chat = ChatParams(chat_template=self._chat_template, chat_template_kwargs=options)
        # The template writes the special tokens.
        tokens = renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False)
        return (await renderer.render_chat_async([prompt], chat, tokens))[1][0]


def _nothing(request_id: str) -> RequestOutput:
    """What there is of a call that was aborted before the engine gave anything."""
    choice = CompletionOutput(
        index=0, text="", token_ids=[], cumulative_logprob=None, logprobs=None, finish_reason="abort"
    )
    return RequestOutput(request_id, None, [], None, [choice], finished=True)
