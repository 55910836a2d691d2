# SPDX-License-Identifier: Apache-2.0
"""Who gets a slot, and when."""

import asyncio
from collections.abc import Sequence

import pytest

from serving.engine import lora_slots
from serving.engine.lora_slots import LoraSlots

pytestmark = pytest.mark.pure


class User:
    """Stands for a request."""


async def started(slots: LoraSlots, numbers: Sequence[int]) -> list[asyncio.Task[None]]:
    """A request for each adapter, as far as it gets."""
    tasks = [asyncio.create_task(slots.acquire(number, KEPT.setdefault((slots, number), User()))) for number in numbers]
    await asyncio.sleep(0.01)
    return tasks


KEPT: dict[tuple[LoraSlots, int], User] = {}


def done(tasks: Sequence[asyncio.Task[None]]) -> list[bool]:
    return [task.done() for task in tasks]


async def test_nothing_pinned() -> None:
    """vLLM's scheduler counts by itself, and for each of its engines."""
    assert done(await started(LoraSlots(1), [1, 2, 3])) == [True] * 3


async def pinned(num_slots: int) -> LoraSlots:
    slots = LoraSlots(num_slots)
    await slots.pin(9)
    return slots


async def test_first_come_first_served() -> None:
    slots = await pinned(2)
    tasks = await started(slots, [1, 2, 9, 3, 1])
    assert done(tasks) == [True, False, True, False, True]
    assert slots.num_waiting == 2
    slots.release(1, KEPT[slots, 1])
    await asyncio.sleep(0.01)
    assert done(tasks[1:4:2]) == [True, False]
    slots.release(2, KEPT[slots, 2])
    await tasks[3]


async def test_turn_of_one_that_waited_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an adapter that is always in use would keep all others out."""
    monkeypatch.setattr(lora_slots, "_PATIENCE_S", 0.05)
    slots, users = await pinned(2), [User(), User()]
    await slots.acquire(1, users[0])
    (other,) = await started(slots, [2])
    await asyncio.sleep(0.06)
    late = asyncio.create_task(slots.acquire(1, users[1]))
    assert done(await started(slots, [9])) == [True], "a pinned one has its own slot"
    assert done([other, late]) == [False, False]
    slots.release(1, users[0])
    await other
    assert not late.done()
    slots.release(2, KEPT[slots, 2])
    await late


async def test_user_that_dies() -> None:
    slots, user = await pinned(2), User()
    await slots.acquire(1, user)
    (other,) = await started(slots, [2])
    del user
    assert not other.done()
    slots.admit()
    await other


async def test_wait_that_is_given_up() -> None:
    slots = await pinned(2)
    first, second, third = await started(slots, [1, 2, 3])
    second.cancel()
    await asyncio.sleep(0)
    slots.release(1, KEPT[slots, 1])
    await third
    assert first.done()
    assert slots.num_waiting == 0


async def test_given_up_at_the_moment_it_is_admitted() -> None:
    slots = await pinned(2)
    _, second, third = await started(slots, [1, 2, 3])
    slots.release(1, KEPT[slots, 1])
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await third


async def test_pin_waits_until_few_enough_are_in_use() -> None:
    slots = LoraSlots(2)
    await started(slots, [1, 2, 9])
    pinning = asyncio.create_task(slots.pin(9))
    await asyncio.sleep(0.1)
    assert not pinning.done()
    (late,) = await started(slots, [3])
    slots.release(1, KEPT[slots, 1])
    await pinning
    assert not late.done()
    slots.unpin(9)
    await late


async def test_pin_that_is_given_up() -> None:
    slots = LoraSlots(1)
    await started(slots, [1])
    pinning = asyncio.create_task(slots.pin(9))
    await asyncio.sleep(0.01)
    pinning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pinning
    assert (slots.num_free, slots.is_pinned(9)) == (1, False)
    assert done(await started(slots, [2, 3])) == [True, True]


async def test_adapter_that_is_being_pinned_takes_no_slot_more() -> None:
    """Until it has its slot, requests for it wait as all others do."""
    slots = await pinned(3)
    await started(slots, [1, 2])
    pinning = asyncio.create_task(slots.pin(8))
    await asyncio.sleep(0.01)
    (own,) = await started(slots, [8])
    assert not own.done()
    slots.release(1, KEPT[slots, 1])
    await pinning
    await own
    assert slots.num_free == 1
