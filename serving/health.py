# SPDX-License-Identifier: Apache-2.0
"""The truth about whether this server should get traffic; asked by `/ping` and `/health`, told by `server.py`."""

from enum import Enum
from typing import Protocol


class State(Enum):
    """What the server can do now."""

    READY = "ready"
    DRAINING = "draining"
    TRIPPED = "tripped"
    DEAD = "dead"


class EngineState(Protocol):
    """What must be known of the engine, which need not have been started yet."""

    @property
    def is_dead(self) -> bool:
        """Its process is gone; nothing will be generated any more."""
        ...

    @property
    def num_in_flight(self) -> int:
        """Requests handed over and not finished."""
        ...


class Health:
    """One object per server. The port is not open before the server is ready, so there is no state before that."""

    def __init__(self, engine: EngineState):
        self._engine = engine
        self._is_draining = False
        self._has_failed = False
        self._is_tripped = False

    def drain(self) -> None:
        """The process was told to stop: tell load balancers to look elsewhere."""
        self._is_draining = True

    def trip(self) -> None:
        """There were more errors than are allowed: load balancers are to look elsewhere until a restart."""
        self._is_tripped = True

    def fail(self) -> None:
        """The custom handler's process died once too often, and nothing else answers."""
        self._has_failed = True

    @property
    def state(self) -> State:
        """Read from the engine each time; never cached."""
        if self._engine.is_dead or self._has_failed:
            return State.DEAD
        if self._is_draining:
            return State.DRAINING
        return State.TRIPPED if self._is_tripped else State.READY
