# SPDX-License-Identifier: Apache-2.0
"""How many different LoRA adapters the engine works on at once. Part of `gate.py`.

vLLM's scheduler counts a slot that a pinned adapter has as free, and a step with more adapters than free slots ends the
engine. So while adapters are pinned, requests for the others wait here for a slot.
"""

import asyncio
import time
from weakref import WeakSet

from serving import metrics

_PATIENCE_S = 1.0
"""For so long requests for adapters that are in use may overtake one that waits for a slot; then it is its turn."""


class LoraSlots:
    """Slots and who uses them. Adapters are given by the engine's number for them, users are any weakly held objects.

    Args:
        num_slots: vLLM's `max_loras`, to which its scheduler keeps by itself while nothing is pinned.
    """

    def __init__(self, num_slots: int):
        self._num_slots = num_slots
        self._pinned: set[int] = set()
        self._num_pinning = 0
        self._users: dict[int, WeakSet[object]] = {}
        self._waiting: list[_Wait] = []

    @property
    def num_free(self) -> int:
        """Slots that no pinned adapter has."""
        return self._num_slots - len(self._pinned)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    async def acquire(self, lora_int_id: int, user: object) -> None:
        """Waits until the engine may work on this adapter, and counts `user` as using it until it releases or dies."""
        wait = _Wait(lora_int_id, user)
        self._waiting.append(wait)
        self.admit()
        if wait.is_over.done():
            return
        try:
            with metrics.ADAPTER_REQUESTS_WAITING.track_inprogress():
                await wait.is_over
        except BaseException:
            if wait in self._waiting:
                self._waiting.remove(wait)
            self.release(lora_int_id, user)
            raise

    def release(self, lora_int_id: int, user: object) -> None:
        """`user` is done; one that never acquired is no error."""
        if (users := self._users.get(lora_int_id)) is not None:
            users.discard(user)
            if not users:
                del self._users[lora_int_id]
            self.admit()

    def admit(self) -> None:
        """Ends the waits that can end, first come first served. To be called now and then: users may die silently."""
        late, is_blocked = time.monotonic() - _PATIENCE_S, False
        for wait in list(self._waiting):
            is_pinned = wait.lora_int_id in self._pinned
            if is_pinned or (not is_blocked and self._has_room(wait.lora_int_id)):
                self._waiting.remove(wait)
                self._users.setdefault(wait.lora_int_id, WeakSet()).add(wait.user)
                if not wait.is_over.done():
                    wait.is_over.set_result(None)
            elif wait.since < late:
                is_blocked = True

    async def pin(self, lora_int_id: int) -> None:
        """Takes a slot away for this adapter alone, once so few others are in use that one is left for it."""
        user = _Pin()
        self._num_pinning += 1
        try:
            await self.acquire(lora_int_id, user)
            self._pinned.add(lora_int_id)
        finally:
            self._num_pinning -= 1
            self.release(lora_int_id, user)

    def unpin(self, lora_int_id: int) -> None:
        """Gives its slot back; one that is not pinned is no error."""
        self._pinned.discard(lora_int_id)
        self.admit()

    def is_pinned(self, lora_int_id: int) -> bool:
        """It has a slot of its own."""
        return lora_int_id in self._pinned

    def _has_room(self, lora_int_id: int) -> bool:
        is_free = not self._pinned and not self._num_pinning
        return is_free or self._num_taken(lora_int_id) < self.num_free

    def _num_taken(self, beside: int = 0) -> int:
        """Adapters in use that are not pinned, but for one."""
        for idle in [number for number, users in self._users.items() if not users]:
            del self._users[idle]
        return sum(number not in self._pinned and number != beside for number in self._users)


class _Pin:
    """The user of an adapter that is about to be pinned."""


class _Wait:
    """A request that waits for a slot."""

    def __init__(self, lora_int_id: int, user: object):
        self.lora_int_id = lora_int_id
        self.user = user
        self.since = time.monotonic()
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
