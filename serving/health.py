# SPDX-License-Identifier: Apache-2.0
"""The truth about whether this server should get traffic; asked by the probes, told by `server.py`."""

from enum import Enum
from typing import Protocol


class State(Enum):
    """What the server can do now."""

    READY = "ready"
    DRAINING = "draining"
    TRIPPED = "tripped"
    DEAD = "dead"


_REASONS = {
    State.DRAINING: "the server shuts down",
    State.TRIPPED: "there were more errors than error_rate_* allows",
    State.DEAD: "the engine, or the custom handler, is gone",
}


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

    @property
    def stalled_s(self) -> float:
        """Seconds since anything was generated, while requests wait for it; about 0 otherwise."""
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

    def reasons(self, stall_timeout_s: float) -> list[str]:
        """Why the server should get no requests now; empty where it should.

        Args:
            stall_timeout_s: an engine that requests wait for and that gave nothing for this long hangs.
        """
        state = self.state
        found = [_REASONS[state]] if state in _REASONS else []
        if state is not State.DEAD and (stalled_s := self._engine.stalled_s) > stall_timeout_s:
            found.append(f"requests wait, and nothing came from the engine for {stalled_s:.0f} s")
        return found

    @property
    def state(self) -> State:
        """Read from the engine each time; never cached."""
        if self._engine.is_dead or self._has_failed:
            return State.DEAD
        if self._is_draining:
            return State.DRAINING
        return State.TRIPPED if self._is_tripped else State.READY
