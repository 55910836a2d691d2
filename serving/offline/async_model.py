# SPDX-License-Identifier: Apache-2.0
"""A model for programs with an event loop: calls run side by side, can be streamed and be given up."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serving.offline.loading import Loading, prepare
from serving.offline.model import LOADED, Unset, named, place_of
from serving.offline.output_types import output_type_of
from serving.offline.prompts import prompts_of
from serving.offline.samples import Piece, Sample, samples_of, unwrapped

if TYPE_CHECKING:
    from serving.engine.vllm_loop import LoopEngine


class AsyncModel:
    """A loaded model; made by `load_async`. An asynchronous context manager that ends its engine.

    A task that is cancelled while it waits for an answer, and a stream that is closed, end their request in the engine.

    Args:
        engine: answers.
        adapters: name to directory of those beside the model, which calls may name.
    """

    def __init__(self, engine: "LoopEngine", adapters: Mapping[str, Path] | None = None):
        self._engine = engine
        self._adapters = adapters or {}
        self._lora: str | None = None

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._engine.tokenizer

    @property
    def max_model_len(self) -> int:
        """The longest prompt and answer together, in tokens."""
        return int(self._engine.model_config.max_model_len)

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
        output, asked = output_type_of(output_type), prompts_of(prompts)
        chosen = self._engine.sampling(sampling_params, sampling, output.constraint)
        where = self._place(lora)

        async def answer(prompt: Any) -> list[Sample]:
            outputs = self._engine.outputs(prompt, asked.are_chats, chosen.params, where, request_id, stream=False)
            async with aclosing(outputs):
                last = [one async for one in outputs][-1]
            return samples_of(last, chosen.count, chosen.is_ranked, output)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(prompt)) for prompt in asked.items]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def __call__(self, prompts: Any, output_type: Any = str, **options: Any) -> Any:
        """As `Model.__call__`."""
        return unwrapped(await self.generate(prompts, output_type, **options), prompts_of(prompts).is_batch)

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
        output, asked = output_type_of(output_type), prompts_of(prompt)
        if asked.is_batch:
            raise TypeError("a stream answers one prompt; start one for each")
        chosen = self._engine.sampling(sampling_params, sampling, output.constraint)
        if chosen.is_ranked:
            raise TypeError("best_of cannot be streamed: which samples are best is known at the end")
        where = self._place(lora)
        outputs = self._engine.outputs(asked.items[0], asked.are_chats, chosen.params, where, request_id, stream=True)
        async with aclosing(outputs):
            async for one in outputs:
                for choice in one.outputs:
                    if choice.text or choice.token_ids or choice.finish_reason:
                        yield Piece(choice.text, tuple(choice.token_ids), choice.index, choice.finish_reason)

    async def abort(self, request_id: str) -> None:
        """Ends every request under this id; whoever waits gets what there is, with `finish_reason` `abort`."""
        await self._engine.abort(request_id)

    async def load_lora(self, path: str | Path | None) -> None:
        """As `Model.load_lora`."""
        where = place_of(path, self._adapters)
        if where is not None:
            await self._engine.load_lora(where)
        self._lora = where

    async def unload_lora(self, path: str | Path) -> None:
        """As `Model.unload_lora`, once the requests that use it are answered."""
        where = named(path, self._adapters)
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

    def _place(self, lora: str | Path | Unset | None) -> str | None:
        return self._lora if isinstance(lora, Unset) else place_of(lora, self._adapters)


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
