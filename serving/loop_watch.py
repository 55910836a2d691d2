# SPDX-License-Identifier: Apache-2.0
"""Notices when something keeps the event loop from its other work, and names the function. Started by `server.py`.

While that lasts no request is answered, `/ping` included, so a thread has to see it. What runs on the loop of ours is
bounded; users' formatters and vLLM's plug-ins are not.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback

from serving import metrics

logger = logging.getLogger(__name__)

_BEAT_S = 0.25
_NUM_FRAMES = 8


class LoopWatch:
    """Watches the running loop between `start` and `stop`.

    Args:
        stall_s: this long without a beat of the loop is a stall.
    """

    def __init__(self, stall_s: float = 1.0):
        self._stall_s = stall_s
        self._beat_at = time.monotonic()
        self._is_stalled = False
        self._stopped = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Called on the loop that is to be watched."""
        loop_thread = threading.get_ident()
        self._beat()
        self._thread = threading.Thread(target=self._watch, args=(loop_thread,), name="loop-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Called on that loop."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        now = time.monotonic()
        late_s = now - self._beat_at - _BEAT_S
        if late_s > self._stall_s:
            metrics.EVENT_LOOP_STALLS.inc()
            metrics.EVENT_LOOP_STALL_SECONDS.inc(late_s)
            logger.warning("the event loop goes on; it was kept for %.1f s", late_s)
        self._beat_at = now
        self._is_stalled = False
        self._timer = asyncio.get_running_loop().call_later(_BEAT_S, self._beat)

    def _watch(self, loop_thread: int) -> None:
        looked_at = time.monotonic()
        while not self._stopped.wait(self._stall_s / 4):
            now = time.monotonic()
            # Kept from running itself, as when the process was stopped, this thread knows nothing of the time before.
            was_awake, looked_at = now - looked_at < self._stall_s, now
            if was_awake and not self._is_stalled and now - self._beat_at - _BEAT_S > self._stall_s:
                self._is_stalled = True
                self._tell(loop_thread)

    def _tell(self, loop_thread: int) -> None:
        frame = sys._current_frames().get(loop_thread)
        if frame is None:
            return
        calls = traceback.extract_stack(frame)[-_NUM_FRAMES:]
        stack = "".join(traceback.format_list(calls))
        last = calls[-1]
        logger.warning(
            "the event loop is kept from answering by %s (%s, line %d):\n%s",
            last.name,
            last.filename,
            last.lineno,
            stack,
        )
