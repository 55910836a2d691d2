# SPDX-License-Identifier: Apache-2.0
"""A model for scripts: each call answers a batch and returns."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serving.offline.base import LOADED, ModelBase, Unset
from serving.offline.loading import prepare
from serving.offline.prompts import prompts_of
from serving.offline.samples import Sample, unwrapped

if TYPE_CHECKING:
    from vllm import LLM

    from serving.engine.vllm_script import ScriptEngine


class Model(ModelBase):
    """A loaded model; made by `load` or `wrap`. A context manager that ends its engine."""

    _engine: "ScriptEngine"

    @property
    def llm(self) -> "LLM":
        """vLLM's own object."""
        return self._engine.llm

    def generate(
        self,
        prompts: Any,
        output_type: Any = str,
        *,
        sampling_params: Any = None,
        lora: str | Path | Unset | None = LOADED,
        progress: bool = False,
        **sampling: Any,
    ) -> list[list[Sample]]:
        """Answers each prompt; a list for each of them, with a sample for each of `n`.

        Args:
            prompts: a text, a list of token ids, a conversation (a list of messages), one of vLLM's prompts, or a list
                of these.
            output_type: `str`, a pydantic model or another type that pydantic knows, a JSON schema, a list of choices,
                a `Regex` or a `Grammar`.
            sampling_params: a `vllm.SamplingParams`, `BeamSearchParams` or mapping, which stays as it is. What it sets
                wins over `sampling`.
            lora: an adapter's directory or Hub id, or the name of one beside the model; None for the base model.
            progress: a bar on standard error shows how far the batch is.
            sampling: fields of `SamplingParams` (without any, the model's generation config counts, and an answer may
                be as long as fits), and `best_of`, `use_beam_search`, `length_penalty`.

        Raises:
            PayloadError: a prompt, a parameter or an adapter that cannot be used; nothing is answered then.
            TypeError: no such output type.
            ServingError: the engine failed.
        """
        call = self._call(prompts, output_type, sampling_params, lora, sampling)
        if not call.prompts.items:
            return []
        asked, params = call.prompts, call.chosen.params
        return [*map(call.samples, self._engine.run(asked.items, asked.are_chats, params, call.lora, progress))]

    def __call__(self, prompts: Any, output_type: Any = str, **options: Any) -> Any:
        """As `generate`, unwrapped to values: of one prompt and one sample the value itself, else lists.

        Raises:
            IncompleteOutput: an answer was cut before it was a whole value.
        """
        asked = prompts_of(prompts)
        return unwrapped(self.generate(asked, output_type, **options), asked.is_batch)

    def load_lora(self, path: str | Path | None) -> None:
        """Has the calls from now on use an adapter, or none; one that was loaded before is still there.

        Args:
            path: directory, Hub id or name, as `lora` of `generate`; None for the base model.

        Raises:
            PayloadError: the engine takes no adapters.
            AdapterRefused: it does not load.
        """
        where = self._place(path)
        if where is not None:
            self._engine.load_lora(where)
        self._lora = where

    def unload_lora(self, path: str | Path) -> None:
        """Gives an adapter's memory back; calls that would use it take the base model."""
        where = self._place_to_unload(path)
        self._engine.unload_lora(where)
        if self._lora is not None and self._engine.directory(self._lora) == self._engine.directory(where):
            self._lora = None

    def shutdown(self) -> None:
        """Ends the engine, also a wrapped one."""
        self._engine.shutdown()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def load(model: str | Path, **keywords: Any) -> Model:
    """Loads a model, as `vllm.LLM` does.

    Args:
        model: Hugging Face id or directory; `demo` is the model that comes with this package.
        keywords: those of `vllm.LLM`; `tensor_parallel_size="max"` takes every GPU. What the model's own
            `serving.properties` says counts where no keyword does.

    Raises:
        TypeError: vLLM's engine has no such keyword.
        ConfigError: a value does not fit, or the model does not load.
    """
    loading = prepare(model, keywords, is_script=True)
    args = loading.arguments()
    from serving.engine.vllm_script import ScriptEngine

    return Model(ScriptEngine.start(args), loading.config.adapters)


def wrap(llm: "LLM") -> Model:
    """The same for a `vllm.LLM` that is there already.

    Raises:
        TypeError: it is something else.
    """
    from vllm import LLM

    from serving.engine.vllm_script import ScriptEngine

    if not isinstance(llm, LLM):
        raise TypeError(f"wrap takes a vllm.LLM, not {type(llm).__name__}; load_async starts an engine for event loops")
    return Model(ScriptEngine(llm))
