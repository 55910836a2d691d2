# SPDX-License-Identifier: Apache-2.0
"""The engine's process as a fork of this one, which has imported everything (docs/decisions/0017).

On a CPU vLLM starts it anew, and it imports vLLM and torch a second time. Used by `vllm_engine.py` where `run.py` found
that it may; a worker process of vLLM's is started as ever, by the engine's.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from vllm.platforms import current_platform

_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
_is_forking = False


@contextmanager
def forking() -> Iterator[None]:
    """Within the block a process that vLLM would start anew for being on a CPU is a fork; its own children are not."""
    global _is_forking
    if os.environ.get(_METHOD) != "spawn" or not current_platform.is_cpu():
        yield
        return
    _register()
    _is_forking = True
    os.environ[_METHOD] = "fork"
    try:
        yield
    finally:
        os.environ[_METHOD] = "spawn"
        _is_forking = False


@cache
def _register() -> None:
    os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    """The event loop's way to hear of signals is the server's, and so is what it does then."""
    if not _is_forking:
        return
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    # A worker needs variables that count when a process is started, such as LD_PRELOAD.
    os.environ[_METHOD] = "spawn"
