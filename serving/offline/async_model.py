# SPDX-License-Identifier: Apache-2.0
"""A model for programs with an event loop: calls run side by side, can be streamed and be given up."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serving.gathering import gather
from serving.offline.base import LOADED, Call, ModelBase, Unset
from serving.offline.loading import Loading, prepare
from serving.offline.prompts import prompts_of
from serving.offline.samples import Piece, Sample, unwrapped

if TYPE_CHECKING:
    from serving.engine.vllm_loop import LoopEngine


class AsyncModel(ModelBase):
    """A loaded model; made by `load_async`. An asynchronous context manager that ends its engine.

    A task that is cancelled while it waits for an answer, and a stream that is closed, end their request in the engine.
    """

    _engine: "LoopEngine"

    async def generate(
        self,
        prompts: Any,
        output_type: Any = str,
        *,
        sampling_params: Any = None,
        lora: str | Path | Unset | None = LOADED,
        request_id: str | None = None,
        **sampling: Any,
    ) -> list[list[Sample]]:
        """As `Model.generate`; `request_id` names what `abort` is to end.

        Raises:
            PayloadError, TypeError, ServingError: as there; the other prompts of a batch are given up.
        """
        call = self._call(prompts, output_type, sampling_params, lora, sampling)

        async def answer(prompt: Any) -> list[Sample]:
            async with aclosing(self._outputs(call, prompt, request_id, stream=False)) as outputs:
                return call.samples([one async for one in outputs][-1])

        return await gather([answer(prompt) for prompt in call.prompts.items])

    async def __call__(self, prompts: Any, output_type: Any = str, **options: Any) -> Any:
        """As `Model.__call__`."""
        asked = prompts_of(prompts)
        return unwrapped(await self.generate(asked, output_type, **options), asked.is_batch)

    async def stream(
        self,
        prompt: Any,
        output_type: Any = str,
        *,
        sampling_params: Any = None,
        lora: str | Path | Unset | None = LOADED,
        request_id: str | None = None,
        **sampling: Any,
    ) -> AsyncGenerator[Piece]:
        """What each engine step adds to the answer to one prompt; the arguments are those of `generate`.

        Raises:
            PayloadError, TypeError, ServingError: as there.
        """
        call = self._call(prompt, output_type, sampling_params, lora, sampling)
        if call.prompts.is_batch:
            raise TypeError("a stream answers one prompt; start one for each")
        if call.chosen.is_ranked:
            raise TypeError("best_of cannot be streamed: which samples are best is known at the end")
        async with aclosing(self._outputs(call, call.prompts.items[0], request_id, stream=True)) as outputs:
            async for one in outputs:
                for choice in one.outputs:
                    if choice.text or choice.token_ids or choice.finish_reason:
                        yield Piece(choice.text, tuple(choice.token_ids), choice.index, choice.finish_reason)

    async def abort(self, request_id: str) -> None:
        """Ends every request under this id; whoever waits gets what there is, with `finish_reason` `abort`."""
        await self._engine.abort(request_id)

    async def load_lora(self, path: str | Path | None) -> None:
        """As `Model.load_lora`."""
        where = self._place(path)
        if where is not None:
            await self._engine.load_lora(where)
        self._lora = where

    async def unload_lora(self, path: str | Path) -> None:
        """As `Model.unload_lora`, once the requests that use it are answered."""
        where = self._place_to_unload(path)
        directory = await self._engine.directory(where)
        if self._lora is not None and await self._engine.directory(self._lora) == directory:
            self._lora = None
        await self._engine.unload_lora(where)

    async def shutdown(self) -> None:
        """Ends the engine's processes; whoever waits gets what there is, as after `abort`."""
        await self._engine.close()

    async def __aenter__(self) -> "AsyncModel":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.shutdown()

    def _outputs(self, call: Call, prompt: Any, request_id: str | None, stream: bool) -> AsyncGenerator[Any]:
        return self._engine.outputs(prompt, call.prompts.are_chats, call.chosen.params, call.lora, request_id, stream)


async def load_async(model: str | Path, **keywords: Any) -> AsyncModel:
    """Loads a model while the loop goes on; the arguments are those of `load`.

    The engine is a process of its own. On a CPU that process imports the program again, which therefore begins with
    `if __name__ == "__main__":`.

    Raises:
        TypeError: vLLM's engine has no such keyword.
        ConfigError: a value does not fit, or the model does not load.
    """
    loading = await asyncio.to_thread(prepare, model, keywords)
    engine = await asyncio.to_thread(_engine, loading)
    await engine.start()
    return AsyncModel(engine, loading.config.adapters)


def _engine(loading: Loading) -> "LoopEngine":
    """Not started yet; imports vLLM."""
    args = loading.arguments()
    from serving.engine.vllm_loop import LoopEngine

    return LoopEngine(args)
