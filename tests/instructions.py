# SPDX-License-Identifier: Apache-2.0
"""Counts Python's instructions, which are the same each time, unlike seconds."""

import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any


async def instructions(work: Callable[[], Coroutine[Any, Any, Any]], warm_ups: int = 3) -> int:
    """How many of Python's instructions the work takes in this thread.

    Args:
        work: is done `warm_ups` times first, because some things are made once.
    """
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            count += 1
        return trace

    for _ in range(warm_ups):
        await work()
    sys.settrace(trace)
    try:
        await work()
    finally:
        sys.settrace(None)
    return count
