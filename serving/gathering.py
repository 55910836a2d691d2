# SPDX-License-Identifier: Apache-2.0
"""Several answers at once: all of them, or the first failure."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TypeVar

_T = TypeVar("_T")


async def gather(answers: Sequence[Coroutine[None, None, _T]]) -> list[_T]:
    """All answers, in order; the first failure cancels the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer) for answer in answers]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
