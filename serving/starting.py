# SPDX-License-Identifier: Apache-2.0
"""While the model loads: a signal, or the time that was set for it, ends this process and the engine's at once.

Used by `cli.py` and `ray_app.py`. An exception raised in a signal handler could be swallowed by whatever is starting
just then, and the engine's start blocks the event loop, so neither is relied on (docs/decisions/0004).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from serving import forks


class Starting:
    """From the first line of the command to the running server, which takes the signals over.

    Args:
        takes_signals: false where they are another program's, and on a thread that cannot have them.
    """

    def __init__(self, takes_signals: bool = True) -> None:
        # A copy of the descriptor, because the engine's start redirects the original.
        self._stderr = os.fdopen(os.dup(2), "wb", buffering=0)
        forks.keep(self._stderr)
        for number in (signal.SIGTERM, signal.SIGINT) if takes_signals else ():
            signal.signal(number, lambda *_: self._leave("stopped while starting", 0))

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Leaves with exit code 1 when the block takes longer."""
        text = (
            f"error: the model is not loaded after {seconds:g} s; raise option.model_loading_timeout, or look above "
            "for what it waits for"
        )
        timer = threading.Timer(seconds, self._leave, (text, 1))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _leave(self, text: str, code: int) -> None:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._stderr.write(f"lmi: {text}\n".encode())
        os._exit(code)
