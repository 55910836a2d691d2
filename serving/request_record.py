# SPDX-License-Identifier: Apache-2.0
"""What is known of one HTTP request while it runs. Made by `request_log.py`, which tells it to the log and the metrics.

Whoever learns something on the way (the routers, `error_responses.py`, the engine's gate) notes it on `current()`.
"""

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

_TRACE_CONTEXT = (b"traceparent", b"tracestate")
"""W3C's headers, which say what a request is a part of."""
_current: ContextVar["RequestRecord | None"] = ContextVar("request_record", default=None)


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request. Times are of `time.perf_counter`; None, and 0 for counts, where there was no such moment.

    Attributes:
        headers: as ASGI has them.
        began: its head was read.
        status: of the answer, as sent.
        handler: what answered on LMI's and TGI's routes.
        fallback: why the default handler answered in place of the custom one.
        error: the kind of error that it was answered with.
        tools: what reads calls of functions from the answer: `parser`, `fallback`; empty for requests without tools.
        adapter: the LoRA adapter that the engine used.
        num_prompt_tokens: that the engine read, over all prompts.
        num_tokens: that it generated, over all prompts.
        queue_s: how long the first prompt waited in the engine.
        first_output_at: something came from the engine.
        overhead_s: our own time: from the body to the engine, and from its first output to the client. None where the
            engine was not asked.
        is_poll: it asked for the answer to another request.
        has_left: the client went away before the end of the answer.
        ended: the end.
    """

    headers: Sequence[tuple[bytes, bytes]] = ()
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    handler: str = ""
    fallback: str = ""
    error: str = ""
    tools: str = ""
    adapter: str = ""
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    queue_s: float | None = None
    first_output_at: float | None = None
    overhead_s: float | None = None
    is_poll: bool = False
    has_left: bool = False
    ended: float | None = None
    _read_at: float | None = None
    _unsent_since: float | None = None

    def trace_headers(self) -> dict[str, str] | None:
        """The client's trace context, if it sent one."""
        found = {name.decode(): text.decode("latin-1") for name, text in self.headers if name in _TRACE_CONTEXT}
        return found or None

    def read(self) -> None:
        """The whole body is there."""
        self._read_at = time.perf_counter()

    def submitted(self) -> None:
        """A prompt goes to the engine."""
        if self.overhead_s is None:
            self.overhead_s = time.perf_counter() - (self._read_at or self.began)

    def first_output(self, num_prompt_tokens: int, queue_s: float | None) -> None:
        """A prompt's first output came from the engine."""
        now = time.perf_counter()
        self.num_prompt_tokens += num_prompt_tokens
        if not self.status:  # a stream that has begun does not say when it is written
            self._unsent_since = now
        if self.first_output_at is None:
            self.first_output_at, self.queue_s = now, queue_s

    def written(self) -> None:
        """Bytes go to the client."""
        if self._unsent_since is not None and self.overhead_s is not None:
            self.overhead_s += time.perf_counter() - self._unsent_since
            self._unsent_since = None

    def end(self) -> None:
        """Nothing is noted any more."""
        self.ended = time.perf_counter()


def current() -> RequestRecord | None:
    """The record of the request that this code runs for; None outside of one, and after its end."""
    record = _current.get()
    return record if record is not None and record.ended is None else None


def begin(headers: Sequence[tuple[bytes, bytes]]) -> RequestRecord:
    """A record for what the running task does from here on."""
    record = RequestRecord(headers)
    _current.set(record)
    return record


def restart() -> None:
    """What was done for the current request so far was not the server's own work."""
    if (record := current()) is not None:
        record.read()


def note(**facts: Any) -> None:
    """Notes facts on the current record, if there is one."""
    if (record := current()) is not None:
        for name, value in facts.items():
            setattr(record, name, value)
