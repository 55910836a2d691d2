# SPDX-License-Identifier: Apache-2.0
"""What the two kinds of model share: the adapter that is chosen, and what a call comes to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import PayloadError
from serving.offline.output_types import OutputType, output_type_of
from serving.offline.prompts import Prompts, prompts_of
from serving.offline.samples import Sample, samples_of


class Unset:
    """The adapter of the last `load_lora`, as `lora=` has it by default; None is the base model."""

    def __repr__(self) -> str:
        return "the adapter of the last load_lora"


LOADED = Unset()


@dataclass(frozen=True, slots=True)
class Call:
    """What one call asks of the engine.

    Attributes:
        prompts: what is to be answered.
        chosen: the engine's `Sampling`.
        lora: directory or Hub id of the adapter; None for the base model.
        output_type: of the answers.
    """

    prompts: Prompts
    chosen: Any
    lora: str | None
    output_type: OutputType

    def samples(self, output: Any) -> list[Sample]:
        """Those that the user gets of one prompt's finished output."""
        return samples_of(output, self.chosen.count, self.chosen.is_ranked, self.output_type)


class ModelBase:
    """A loaded model.

    Args:
        engine: answers.
        adapters: name to directory of those beside the model, which calls may name.
    """

    def __init__(self, engine: Any, adapters: Mapping[str, Path] | None = None):
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

    def _call(
        self,
        prompts: Any,
        output_type: Any,
        sampling_params: Any,
        lora: str | Path | Unset | None,
        sampling: Mapping[str, Any],
    ) -> Call:
        """The arguments of a call, read; they and the errors are those of `Model.generate`."""
        output, asked = output_type_of(output_type), prompts_of(prompts)
        chosen = self._engine.sampling(sampling_params, sampling, output.constraint)
        return Call(asked, chosen, self._lora if isinstance(lora, Unset) else self._place(lora), output)

    def _place(self, lora: str | Path | None) -> str | None:
        """Directory or Hub id of an adapter that is given as such, or by its name."""
        return None if lora is None else str(self._adapters.get(str(lora), lora))

    def _place_to_unload(self, lora: str | Path) -> str:
        """As `_place`.

        Raises:
            PayloadError: it is None.
        """
        where = self._place(lora)
        if where is None:
            raise PayloadError("the base model cannot be unloaded; load_lora(None) goes back to it")
        return where
