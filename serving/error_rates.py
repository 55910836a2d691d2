# SPDX-License-Identifier: Apache-2.0
"""LMI's limit of errors: more than so many within a time, and `/ping` says until the restart that it is enough.

Told by `request_log.py` of every answer of LMI's routes; asks `health.py` to remember.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping

from serving.config.error_rate import ErrorRate


class ErrorRates:
    """Counts errors by LMI's kinds.

    Args:
        limits: kind to limit: `server` for the server's failures, `wlm` for requests without room, `any` for both.
        trip: called when one is exceeded.
    """

    def __init__(self, limits: Mapping[str, ErrorRate], trip: Callable[[], None]):
        self._limits = limits
        self._trip = trip
        self._seen: dict[str, deque[float]] = {kind: deque() for kind in limits}

    def count(self, status: int) -> None:
        """An answer with this status went out."""
        if status < 500:
            return
        now = time.monotonic()
        for kind in ("wlm" if status == 503 else "server", "any"):
            if (limit := self._limits.get(kind)) is None:
                continue
            seen = self._seen[kind]
            seen.append(now)
            while seen and seen[0] < now - limit.window_s:
                seen.popleft()
            if len(seen) > limit.count:
                self._trip()
