# SPDX-License-Identifier: Apache-2.0
"""What the tests ask of processes."""

import time
from collections.abc import Iterable

import psutil


def is_alive(pid: int) -> bool:
    """It runs; what has ended and was not yet waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_after(processes: Iterable[psutil.Process], seconds: float) -> list[int]:
    """The ids of those that still run when `seconds` have passed; returns at once when none does."""
    deadline = time.monotonic() + seconds
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [one for one in left if one.is_running() and is_alive(one.pid)]
        time.sleep(0.05)
    return [one.pid for one in left]
