# SPDX-License-Identifier: Apache-2.0
"""The first process of a container, which every orphan in there is handed to; unwaited for, they would pile up.

Used by `cli.py`: where this process is number 1, the server runs in a child of it.
"""

import os
import signal
import sys
from collections.abc import Callable

_FORWARDED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


def run(work: Callable[[], int]) -> int:
    """The exit code of `work`, done here, or in a child process where this is the first one."""
    return in_child(work) if os.getpid() == 1 else work()


def in_child(work: Callable[[], int]) -> int:
    """Does `work` in a child, hands it every signal, and waits for whatever ends.

    Returns:
        In the child what `work` returns; in this process its exit code, 128 + N where signal N ended it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    awaited = {*_FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        os.setsid()  # a terminal's Ctrl-C is for this process alone, which hands it on
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return work()
    while True:
        number = signal.sigwait(awaited)
        if number != signal.SIGCHLD:
            os.kill(child, number)
        elif (code := _wait(child)) is not None:
            return code


def _wait(child: int) -> int | None:
    """Takes note of every process that has ended; the exit code of `child` if it is one of them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if pid == 0:
            return None
