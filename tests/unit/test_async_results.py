# SPDX-License-Identifier: Apache-2.0
"""What the store of asynchronous results keeps, and what it lets go."""

import asyncio
import sys

import pytest

from serving.async_results import AsyncResults, Result
from serving.config.options import ServerSettings
from serving.errors import ResultsFull
from tests.unit.asgi import TIMEOUT_S

pytestmark = pytest.mark.pure
PIECE = b"x" * 1000


def finished(results: AsyncResults, num_pieces: int = 1) -> Result:
    """A complete answer."""
    result = results.create()
    for _ in range(num_pieces):
        results.append(result, PIECE)
    result.is_complete = True
    results.close(result)
    return result


async def test_what_nobody_asked_for_longest_goes_first() -> None:
    results = AsyncResults(ServerSettings(memory_cache_capacity=3))
    first, second, third = [finished(results) for _ in range(3)]
    assert results.get(first.token) is first
    fourth = results.create()
    kept = [results.get(result.token) is result for result in (first, second, third, fourth)]
    assert kept == [True, False, True, True]
    assert len(results) == 3


async def test_unfinished_ones_never_go() -> None:
    results = AsyncResults(ServerSettings(memory_cache_capacity=2))
    unfinished = [results.create(), results.create()]
    with pytest.raises(
        ResultsFull, match=r"^2 asynchronous results are unfinished; memory_cache_capacity bounds them$"
    ):
        results.create()
    assert [results.get(result.token) for result in unfinished] == unfinished
    unfinished[0].is_complete = True
    results.close(unfinished[0])
    results.create()
    assert results.get(unfinished[0].token) is None
    assert results.get(unfinished[1].token) is unfinished[1]


async def test_tokens_differ() -> None:
    results = AsyncResults(ServerSettings())
    assert len({results.create().token for _ in range(100)}) == 100


async def test_bytes() -> None:
    one = sys.getsizeof(PIECE) + 8
    results = AsyncResults(ServerSettings(memory_cache_max_bytes=3 * one))
    first, second = finished(results), finished(results)
    growing = results.create()
    results.append(growing, PIECE)
    assert results.num_bytes == 3 * one
    assert results.get(first.token) is first
    results.append(growing, PIECE)
    assert results.get(second.token) is None
    assert results.get(first.token) is first
    assert results.num_bytes == 3 * one


async def test_one_that_is_too_long_is_told_once() -> None:
    """What it says then, how it failed, is kept."""
    one = sys.getsizeof(PIECE) + 8
    results = AsyncResults(ServerSettings(memory_cache_max_bytes=2 * one))
    finished(results)
    growing = results.create()
    results.append(growing, PIECE)
    results.append(growing, PIECE)
    with pytest.raises(ResultsFull, match="memory_cache_max_bytes"):
        results.append(growing, PIECE)
    results.append(growing, b"end")
    assert growing.pieces == [PIECE, PIECE, b"end"]
    assert len(results) == 1


async def test_one_that_can_never_fit_takes_nobodys_place() -> None:
    one = sys.getsizeof(PIECE) + 8
    results = AsyncResults(ServerSettings(memory_cache_max_bytes=3 * one))
    others = [finished(results), finished(results)]
    with pytest.raises(ResultsFull):
        results.append(results.create(), PIECE * 4)
    assert [results.get(other.token) for other in others] == others


async def test_incomplete_one_is_forgotten() -> None:
    results = AsyncResults(ServerSettings())
    result = results.create()
    results.append(result, PIECE)
    results.close(result)
    assert results.get(result.token) is None
    assert (len(results), results.num_bytes) == (0, 0)


async def test_time_to_live() -> None:
    """Counted from the last time somebody asked; what is unfinished lives on."""
    results = AsyncResults(ServerSettings.model_construct(memory_cache_ttl=0.5))
    unfinished = results.create()
    asked_for, left = finished(results), finished(results)
    await asyncio.sleep(0.3)
    assert results.get(asked_for.token) is asked_for
    await until_length(results, 2)
    assert results.get(left.token) is None
    assert results.num_bytes == asked_for.num_bytes
    await until_length(results, 1)
    assert results.get(unfinished.token) is unfinished
    assert results.num_bytes == 0
    later = finished(results)
    await until_length(results, 1)
    assert results.get(later.token) is None


async def until_length(results: AsyncResults, length: int) -> None:
    """Waits until nothing more is kept."""
    async with asyncio.timeout(TIMEOUT_S):
        while len(results) > length:
            await asyncio.sleep(0.01)
