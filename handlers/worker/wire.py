# SPDX-License-Identifier: Apache-2.0
"""The worker's end of the socket, for every thread of it; and its output as log messages."""

import io
import logging
import os
import socket
import threading
from contextvars import ContextVar

from handlers.worker.protocol import Log, ToServer, frame, sendable

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the call that the current task or thread works for."""
_NEVER_S = 365 * 86400.0


class Wire:
    """Sends messages, whole and in order, from any thread.

    Writing blocks for as long as the server does not read, which is short: what is on its way is bounded per stream.
    """

    def __init__(self, sock: socket.socket):
        # A copy of the descriptor with a timeout: the loop reads from the original without blocking.
        self._sock = sock.dup()
        self._sock.settimeout(_NEVER_S)
        self._lock = threading.Lock()

    def send(self, message: ToServer) -> None:
        """Sends one message; the end of the server is the end of this process."""
        try:
            data = frame(message)
        except UnicodeEncodeError:
            data = frame(sendable(message))
        try:
            with self._lock:
                self._sock.sendall(data)
        except OSError:
            os._exit(0)


class LogHandler(logging.Handler):
    """Log records to the server."""

    def __init__(self, wire: Wire):
        super().__init__()
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record, its traceback included; one that cannot be formatted fails nobody."""
        try:
            self._wire.send(Log(request_id.get(), record.levelno, record.name, self.format(record)))
        except Exception:
            self.handleError(record)


class Lines(io.TextIOBase):
    """Standard output or error: each line is a log message of that name."""

    def __init__(self, wire: Wire, name: str):
        self._wire = wire
        self._name = name
        self._rest = ""
        self._lock = threading.Lock()

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor it stands for, for code that hands it to another process."""
        return 1 if self._name == "stdout" else 2

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it as an attribute
        """As of a real one."""
        return "utf-8"

    def write(self, text: str) -> int:
        """Sends the lines that are whole; of one that was overwritten, as progress bars do, what stood last."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            self._rest = self._rest[self._rest.rfind("\r") + 1 :] or self._rest
        for line in lines:
            self._send(line)
        return len(text)

    def finish(self) -> None:
        """Sends what was written of the last line."""
        if self._rest:
            self._send(self._rest)

    def _send(self, line: str) -> None:
        self._wire.send(Log(request_id.get(), logging.INFO, self._name, line.rstrip("\r").rpartition("\r")[2]))
