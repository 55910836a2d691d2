# SPDX-License-Identifier: Apache-2.0
"""Exceptions out of the user's code, as the server is told about them. Used in the worker process."""

import traceback

from handlers.worker.answers import InvalidReturn
from handlers.worker.protocol import Failed, Reason

_MEMORY_TEXTS = ("CUDA error: out of memory", "No available memory for the cache blocks")


def failure(call_id: int, error: Exception) -> Failed:
    """What the server is told about an exception out of the user's code."""
    text = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    reason: Reason = "runtime_error"
    if isinstance(error, InvalidReturn):
        reason = "invalid_return"
    elif is_memory_error(error):
        reason = "memory"
    return Failed(call_id, reason, text, "".join(traceback.format_exception(error)))


def is_memory_error(error: Exception) -> bool:
    """The error says that memory ran out, as LMI tells it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(text in str(error) for text in _MEMORY_TEXTS)
    )
