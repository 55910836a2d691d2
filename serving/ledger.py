# SPDX-License-Identifier: Apache-2.0
"""Where the time of a start went, phase by phase. Filled by everyone who starts something, told by `run.py`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from serving import metrics


class Ledger:
    """The phases of one start; what is done while another phase runs counts for that one.

    Attributes:
        began: when the process was made, by `time.time`.
    """

    def __init__(self) -> None:
        self.began = psutil.Process().create_time()
        self._seconds: dict[str, float] = {}
        self._is_within = False
        self._add("Python", time.time() - self.began)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block's time for `name`."""
        if self._is_within:
            yield
            return
        self._is_within = True
        began = time.monotonic()
        try:
            yield
        finally:
            self._is_within = False
            self._add(name, time.monotonic() - began)

    @property
    def total_s(self) -> float:
        """Seconds since the process was made."""
        return time.time() - self.began

    def close(self) -> str:
        """The start is over: every phase that took a tenth of a second or more, in order, and what none covers."""
        metrics.READY_SECONDS.set(self.total_s)
        self._add("other", self.total_s - sum(self._seconds.values()))
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self._seconds.items() if seconds >= 0.05)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        metrics.START_SECONDS.labels(name).set(self._seconds[name])
