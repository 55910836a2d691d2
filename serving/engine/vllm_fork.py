# SPDX-License-Identifier: Apache-2.0
"""The engine's process as a fork of this one, which has imported everything (docs/decisions/0017).

On a CPU vLLM starts it anew, and it imports vLLM and torch a second time. Used by `vllm_engine.py` while nothing else
runs in this process yet; vLLM's worker process is started as ever, by the engine's.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from vllm.platforms import current_platform

_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
_methods: list[str | None] = []
"""While a start runs: how vLLM would start processes."""
_registered: list[bool] = []


@contextmanager
def forking() -> Iterator[None]:
    """Within the block a process that vLLM starts is a fork, on a CPU, too; its own children are not."""
    if not _registered:
        os.register_at_fork(after_in_child=_in_child)
        _registered.append(True)
    method = os.environ.get(_METHOD)
    _methods.append(method)
    if method == "spawn" and current_platform.is_cpu():
        os.environ[_METHOD] = "fork"
    try:
        yield
    finally:
        _restore(_methods.pop())


def _in_child() -> None:
    """What is the server's own is not its engine's: the event loop's way to hear of signals, what it does then."""
    if not _methods:
        return
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    # A worker needs variables that count when a process is started, such as LD_PRELOAD.
    _restore(_methods.pop())


def _restore(method: str | None) -> None:
    if method is not None:
        os.environ[_METHOD] = method
