# SPDX-License-Identifier: Apache-2.0
"""Streams text out of a Hugging Face model of the user's own, for `Output.add_stream_content`.

Needs torch and transformers, which load on first use.
"""

from collections.abc import Callable, Iterator
from typing import Any

_DEFAULT_MAX_NEW_TOKENS = 50
_PASSED_ON = ("repetition_penalty", "temperature", "top_p", "top_k", "typical_p", "do_sample")


class HFStreamer:
    """What transformers' `generate` hands tokens to, as an iterator over the text of each step.

    A step is a list of texts, one per prompt of the batch; text that ends inside a character waits for the next step.
    """

    def __init__(self, tokenizer: Any, skip_prompt: bool = True, **decode_kwargs: Any):
        """Decodes with `tokenizer`.

        Args:
            tokenizer: of the model that generates.
            skip_prompt: the first tokens that arrive are the prompt's, and are not shown.
            **decode_kwargs: passed to the tokenizer's `decode`; special tokens are left out unless these say otherwise.
        """
        import queue

        self._tokenizer = tokenizer
        self._skip_next = skip_prompt
        self._decode_kwargs = {"skip_special_tokens": True, **decode_kwargs}
        self._tokens: list[list[int]] = []
        self._shown: list[int] = []
        self._steps: queue.Queue[Any] = queue.Queue()

    def put(self, value: Any) -> None:
        """Takes the tokens of one step: a tensor of shape (batch,), or (batch, tokens) for the prompt."""
        if self._skip_next:
            self._skip_next = False
            return
        rows = value.reshape(len(value), -1).tolist()
        if not self._tokens:
            self._tokens, self._shown = [[] for _ in rows], [0 for _ in rows]
        self._steps.put([self._grown(index, row) for index, row in enumerate(rows)])

    def end(self) -> None:
        """No more tokens will come."""
        self._steps.put(None)

    def fail(self, error: BaseException) -> None:
        """Generation broke off; the reader gets this error."""
        self._steps.put(error)

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        step = self._steps.get()
        if step is None:
            raise StopIteration
        if isinstance(step, BaseException):
            raise step
        texts: list[str] = step
        return texts

    def _grown(self, index: int, tokens: list[int]) -> str:
        self._tokens[index] += tokens
        text: str = self._tokenizer.decode(self._tokens[index], **self._decode_kwargs)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        new = text[self._shown[index] :]
        self._shown[index] = len(text)
        return new


class StreamingUtils:
    """Ways to stream out of a model."""

    @staticmethod
    def get_stream_generator(execution_engine: str) -> Callable[..., Iterator[list[str]]]:
        """The function that streams: `use_hf_default_streamer`.

        Raises:
            ValueError: the engine is not `Accelerate`.
        """
        if execution_engine != "Accelerate":
            raise ValueError(f"{execution_engine} can't stream; the only engine that can is Accelerate")
        return StreamingUtils.use_hf_default_streamer

    @staticmethod
    def use_hf_default_streamer(
        model: Any, tokenizer: Any, inputs: list[str], device: Any, **parameters: Any
    ) -> Iterator[list[str]]:
        """Generates in a thread, and iterates over the texts of each step.

        Args:
            model: a transformers model that can `generate`.
            tokenizer: its tokenizer.
            inputs: the prompts of one batch.
            device: where the prompts' tokens go.
            **parameters: `max_new_tokens` (50), `repetition_penalty`, `temperature`, `top_p`, `top_k`, `typical_p`,
                `do_sample`, and `manual_seed`.

        Raises:
            NotImplementedError: `beam_size` is more than 1.
        """
        import threading

        if (parameters.get("beam_size") or 1) > 1:
            raise NotImplementedError("Beam search can't be streamed.")
        _prepare(tokenizer, parameters.get("manual_seed"))
        tokens = tokenizer(inputs, return_tensors="pt", padding=True).to(device)
        streamer = HFStreamer(tokenizer)
        settings = {name: parameters[name] for name in _PASSED_ON if name in parameters}
        settings["max_new_tokens"] = parameters.get("max_new_tokens", _DEFAULT_MAX_NEW_TOKENS)
        work = {**tokens, **settings, "streamer": streamer}
        threading.Thread(target=_generate, args=(model, streamer, work), daemon=True).start()
        return streamer


def _prepare(tokenizer: Any, seed: int | None) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if seed is not None:
        import torch

        torch.manual_seed(seed)


def _generate(model: Any, streamer: HFStreamer, work: dict[str, Any]) -> None:
    try:
        model.generate(**work)
    except BaseException as error:
        streamer.fail(error)
