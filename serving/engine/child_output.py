# SPDX-License-Identifier: Apache-2.0
"""Copies what the engine's processes print, so that a failed start can say why.

vLLM reports a failed engine process as "see root cause above"; the cause stands only in that process's output. While
the engine starts, standard output and error go through a pipe each; a thread passes everything on and keeps the tail.
"""

import os
import re
import threading
from collections import deque
from io import FileIO
from itertools import takewhile
from types import TracebackType

from serving import forks

_TAIL_LINES = 400
_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s*)?([A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?")
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)): (.+)")
_CONSEQUENCES = ("Engine core initialization failed", "WorkerProc initialization failed", "Executor failed")


class ChildOutput:
    """A context in which child processes inherit the pipes; the threads go on for as long as a child writes."""

    def __init__(self) -> None:
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._saved: list[tuple[int, FileIO]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "ChildOutput":
        for descriptor in (1, 2):
            original = FileIO(os.dup(descriptor), "wb")
            reader_end, writer_end = os.pipe()
            reader = FileIO(reader_end, "rb")
            for own in (original, reader):
                forks.keep(own)
            os.dup2(writer_end, descriptor)
            os.close(writer_end)
            self._saved.append((descriptor, original))
            thread = threading.Thread(target=self._pass_on, args=(reader, original), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for descriptor, original in self._saved:
            os.dup2(original.fileno(), descriptor)
        if error is not None:
            self.join()

    def join(self, timeout_s: float = 2.0) -> None:
        """Waits until the children's last lines are passed on."""
        for thread in self._threads:
            thread.join(timeout_s)

    def root_cause(self) -> str | None:
        """The last exception that a child printed and that is not a mere consequence of another; None if none did.

        Lines below it that are indented belong to it.
        """
        lines = [_PREFIX.sub("", line) for line in self._tail]
        for number in reversed(range(len(lines))):
            match = _EXCEPTION.match(lines[number].strip())
            if match and not any(text in lines[number] for text in _CONSEQUENCES):
                text = match[2] if match[1] in ("ValueError", "RuntimeError", "OSError") else match[0]
                more = takewhile(lambda line: line[:1].isspace() and line.strip(), lines[number + 1 :])
                return "; ".join([text.strip(), *(line.strip() for line in more)]).replace(":; ", ": ")
        return None

    def _pass_on(self, reader: FileIO, original: FileIO) -> None:
        with reader, original:
            rest = b""
            while data := reader.read(65536):
                original.write(data)
                *lines, rest = (rest + data).split(b"\n")
                self._tail.extend(line.decode("utf-8", "replace") for line in lines)
