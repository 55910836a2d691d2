# SPDX-License-Identifier: Apache-2.0
"""The truth about whether this server should get traffic; asked by `/ping` and `/health`, told by `server.py`."""

from enum import Enum

from serving.engine.base import Engine


class State(Enum):
    """What the server can do now."""

    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class Health:
    """One object per server. The port is not open before the engine is ready, so there is no state before that."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._is_draining = False

    def drain(self) -> None:
        """The process was told to stop: tell load balancers to look elsewhere."""
        self._is_draining = True

    @property
    def state(self) -> State:
        """Read from the engine each time; never cached."""
        if self._engine.is_dead:
            return State.DEAD
        return State.DRAINING if self._is_draining else State.READY
