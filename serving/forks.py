# SPDX-License-Identifier: Apache-2.0
"""What this process has opened for itself alone, and a process that is forked from it gives up at once.

Filled by whoever opens something; an engine that kept the port or the streams would hold them when the server is gone.
"""

import os
from functools import cache
from typing import Protocol
from weakref import WeakSet


class Closable(Protocol):
    """A socket or a file."""

    def close(self) -> None:
        """Gives the descriptor back."""


_own: WeakSet[Closable] = WeakSet()


def keep(opened: Closable) -> None:
    """From now on `opened` is not a child's; what is started anew never had it."""
    _register()
    _own.add(opened)


@cache
def _register() -> None:
    os.register_at_fork(after_in_child=_give_up)


def _give_up() -> None:
    for opened in list(_own):
        opened.close()
