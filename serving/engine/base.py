# SPDX-License-Identifier: Apache-2.0
"""The engine as the rest of the server sees it. `vllm_engine.py` is the real one, tests have a fake."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serving.schemas.generation import EmbeddingRequest, GenerationChunk, GenerationRequest, OpenAIRequest


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What clients may ask about the loaded model.

    Attributes:
        model_id: Hugging Face id or directory.
        dtype: of its weights.
        max_model_len: longest prompt and answer together, in tokens.
        max_num_seqs: most sequences in one engine step.
    """

    model_id: str
    dtype: str
    max_model_len: int
    max_num_seqs: int


class Loras(Protocol):
    """The adapters in an engine."""

    @property
    def sources(self) -> Mapping[str, str]:
        """Name to directory of the adapters that requests may name."""
        ...

    async def load(self, name: str, path: Path, is_3d_weight: bool = False) -> None:
        """Takes an adapter up; from then on requests may name it. Takes the place of one of the same name.

        Args:
            name: as requests name it.
            path: its directory.
            is_3d_weight: the experts of a layer are stored in one tensor, as vLLM's `is_3d_lora_weight`.

        Raises:
            AdapterRefused: it does not load, with the reason.
            AdapterSlotsExhausted: there is no room for it.
        """
        ...

    async def offer(self, name: str, path: Path, is_3d_weight: bool = False) -> None:
        """Lets requests name an adapter, which the first of them loads; the arguments are those of `load`.

        Raises:
            AdapterRefused: its files show that it does not load.
        """
        ...

    async def unload(self, name: str) -> None:
        """Forgets an adapter, once the requests that it has are answered; one that is not loaded is no error."""
        ...

    async def pin(self, name: str) -> None:
        """Keeps a loaded adapter in its slot.

        Raises:
            AdapterRefused: it is not loaded.
            AdapterSlotsExhausted: every slot is taken by a pinned one.
        """
        ...


class Engine(Protocol):
    """Generates text, one request independent of the other."""

    @property
    def loras(self) -> Loras:
        """The LoRA adapters that requests may name."""
        ...

    @property
    def tasks(self) -> Sequence[str]:
        """What the model can do, in vLLM's words: `generate`, `embed`, `classify`, ..."""
        ...

    @property
    def facts(self) -> ModelFacts:
        """What clients may ask about the loaded model."""
        ...

    @property
    def is_dead(self) -> bool:
        """The engine process is gone; nothing will be generated any more."""
        ...

    @property
    def stalled_s(self) -> float:
        """Seconds since anything was generated, while requests wait for it."""
        ...

    @property
    def num_in_flight(self) -> int:
        """Requests handed over and not finished, whichever route they came from."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The model's, safe to be called from several threads; None if it has none."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        """Generates from one prompt. Closing the generator aborts the request in the engine.

        Yields:
            Chunks in engine order; the last one of each choice has `finish_reason`.

        Raises:
            PayloadError: a field, the prompt's length or the model name is refused.
            EngineError: the engine failed on this request.
            EngineDead: the engine process is gone.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        """One vector per input, in order.

        Raises:
            PayloadError, EngineError, EngineDead: as in `generate`.
        """
        ...

    async def openai(self, request: OpenAIRequest, headers: Mapping[str, str]) -> bytes | AsyncGenerator[bytes]:
        """Answers a body in OpenAI's words the way vLLM does.

        Args:
            request: the body.
            headers: of the HTTP request, lower-case names; vLLM reads ids and trace context from them.

        Returns:
            The JSON object, or, where the body asks for a stream, one JSON object (no newline) per item.

        Raises:
            PayloadError, EngineError, EngineDead: as in `generate`, before the first item; later the last item of the
                stream is vLLM's error object.
        """
        ...

    async def openai_objects(self, request: OpenAIRequest, headers: Mapping[str, str]) -> Any:
        """As `openai`, but what vLLM itself hands to its routes.

        Returns:
            vLLM's response object, or, where the body asks for a stream, an async generator of vLLM's events, texts
            such as `data: {...}` with two line ends; the last one is `data: [DONE]`.

        Raises:
            PayloadError, EngineError, EngineDead: as in `generate`; the events never hold vLLM's error object.
        """
        ...
