# SPDX-License-Identifier: Apache-2.0
"""A model for scripts: each call answers a batch and returns."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from serving.errors import PayloadError
from serving.offline.loading import prepare
from serving.offline.output_types import output_type_of
from serving.offline.prompts import prompts_of
from serving.offline.samples import Sample, samples_of, unwrapped

if TYPE_CHECKING:
    from vllm import LLM

    from serving.engine.vllm_script import ScriptEngine


class Unset:
    """The adapter of the last `load_lora`, as `lora=` has it by default; None is the base model."""

    def __repr__(self) -> str:
        return "the adapter of the last load_lora"


LOADED = Unset()


class Model:
    """A loaded model; made by `load` or `wrap`. A context manager that ends its engine.

    Args:
        engine: answers.
        adapters: name to directory of those beside the model, which calls may name.
    """

    def __init__(self, engine: "ScriptEngine", adapters: Mapping[str, Path] | None = None):
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
        output, asked = output_type_of(output_type), prompts_of(prompts)
        chosen = self._engine.sampling(sampling_params, sampling, output.constraint)
        if not asked.items:
            return []
        where = self._lora if isinstance(lora, Unset) else self._place(lora)
        outputs = self._engine.run(asked.items, asked.are_chats, chosen.params, where, progress)
        return [samples_of(one, chosen.count, chosen.is_ranked, output) for one in outputs]

    def __call__(self, prompts: Any, output_type: Any = str, **options: Any) -> Any:
        """As `generate`, unwrapped to values: of one prompt and one sample the value itself, else lists.

        Raises:
            IncompleteOutput: an answer was cut before it was a whole value.
        """
        return unwrapped(self.generate(prompts, output_type, **options), prompts_of(prompts).is_batch)

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
        where = named(path, self._adapters)
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

    def _place(self, lora: str | Path | None) -> str | None:
        return place_of(lora, self._adapters)


def place_of(lora: str | Path | None, adapters: Mapping[str, Path]) -> str | None:
    """Directory or Hub id of an adapter that is given as such, or by its name."""
    return None if lora is None else str(adapters.get(str(lora), lora))


def named(lora: str | Path, adapters: Mapping[str, Path]) -> str:
    """As `place_of`, of an adapter that has to be there.

    Raises:
        PayloadError: it is None.
    """
    where = place_of(lora, adapters)
    if where is None:
        raise PayloadError("the base model cannot be unloaded; load_lora(None) goes back to it")
    return where


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
