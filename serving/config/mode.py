# SPDX-License-Identifier: Apache-2.0
"""Chooses LMI's mode once, from the options that LMI chooses by. Called by `resolve.py`.

Async and rolling batch run on the same engine; they differ in payload defaults and answers. The first rule that fits
decides.
"""

from dataclasses import dataclass
from typing import Literal

from serving.config.options import ASYNC_SERVICE, HUGGINGFACE, LmiOptions
from serving.errors import ConfigError, Problem

EMBEDDING_TASKS = ("text-embedding", "feature-extraction")


@dataclass(frozen=True, slots=True)
class Mode:
    """Which of LMI's modes answers, and why."""

    name: Literal["async", "rolling_batch", "embedding"]
    reason: str


def choose(options: LmiOptions, warnings: list[str]) -> Mode:
    """The mode that `rolling_batch`, `async_mode` and `entryPoint` ask for; a task that embeds has its own.

    Raises:
        ConfigError: they ask for both (`CONFLICT`).
    """
    mode = _text_mode(options, warnings)
    if options.task not in EMBEDDING_TASKS:
        return mode
    if mode.name == "rolling_batch":
        warnings.append(f"{mode.reason} has no effect: task={options.task} has one mode")
    return Mode("embedding", f"task={options.task}")


def _text_mode(options: LmiOptions, warnings: list[str]) -> Mode:
    batch, entry_point = options.rolling_batch, options.entry_point
    wants_async = options.async_mode is True or entry_point == ASYNC_SERVICE
    if batch in ("vllm", "lmi-dist"):
        if wants_async:
            other = "async_mode=true" if options.async_mode else f"entryPoint={entry_point}"
            text = f"rolling_batch={batch} and {other} ask for different modes"
            remedy = f"drop {other} for rolling batch, or set rolling_batch=disable for async"
            raise ConfigError([Problem("CONFLICT", text, remedy=remedy)])
        if batch == "lmi-dist":
            warnings.append("rolling_batch=lmi-dist is read as rolling_batch=vllm")
        return Mode("rolling_batch", f"rolling_batch={batch}")
    if batch == "auto" and not wants_async:
        return Mode("rolling_batch", "rolling_batch=auto")
    if entry_point == HUGGINGFACE:
        if batch != "disable" and not wants_async:
            return Mode("rolling_batch", f"entryPoint={HUGGINGFACE}")
        warnings.append(f"entryPoint={HUGGINGFACE} is treated as vLLM's async service")
    if batch == "disable" and not wants_async:
        warnings.append("rolling_batch=disable without async_mode=true: LMI would leave vLLM, this server does not")
    reason = "async_mode=true" if options.async_mode else f"entryPoint={entry_point}" if entry_point else ""
    return Mode("async", reason or "nothing asks for another")
