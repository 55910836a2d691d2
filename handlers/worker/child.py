# SPDX-License-Identifier: Apache-2.0
"""The worker process: `python -P -m handlers.worker.child SOCKET LEASH`, two descriptors that the server opened.

It executes the user's module once, on the main thread, and then runs the loop on which its functions are called
(`runner.py`). It ends when the server does: the kernel kills the whole process group when the leash's other end closes,
whatever the user's code is doing, the processes that a `vllm.LLM` of its own started included.
"""

import asyncio
import fcntl
import importlib
import logging
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from types import ModuleType

from djl_python.service_loader import execute_file
from handlers.worker.protocol import Frames, Loaded, LoadFailed, Start, to_worker
from handlers.worker.runner import Runner
from handlers.worker.wire import Lines, LogHandler, Wire

_F_SETSIG = 10
_INTERESTING = ("register_adapter", "update_adapter", "unregister_adapter", "input_fn", "output_fn")


def main(socket_fd: int, leash_fd: int) -> int:
    """Runs until the server closes the socket; returns the exit code."""
    _tie(leash_fd)
    sock = socket.socket(fileno=socket_fd)
    start, rest = _first(sock)
    wire = Wire(sock)  # after the first message: it makes the socket non-blocking
    _redirect_output(wire)
    sys.path[:0] = [start.directory, *start.path]
    try:
        module = _load(start)
        missing = _missing(module, start)
        if missing:
            raise AttributeError(f"module {os.path.basename(start.file)!r} has no function {missing!r}")
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        wire.send(LoadFailed(text, "".join(traceback.format_exception(error))))
        return 1
    names = [name for name in (start.handler, *_INTERESTING) if callable(getattr(module, name, None))]
    runner = Runner(module, start, wire)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    wire.send(Loaded(names))
    loop.run_until_complete(runner.serve(sock, loop, rest))
    return 0


def _load(start: Start) -> ModuleType:
    if start.module is not None:
        return importlib.import_module(start.module)
    return execute_file(start.file, start.directory)


def _missing(module: ModuleType, start: Start) -> str:
    needed = ("model_fn", "predict_fn") if start.is_script else (start.handler,)
    return next((name for name in needed if not callable(getattr(module, name, None))), "")


def _tie(leash_fd: int) -> None:
    """Has the kernel kill this process group when the server's end of the pipe closes."""
    fcntl.fcntl(leash_fd, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(leash_fd, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(leash_fd, fcntl.F_SETFL, fcntl.fcntl(leash_fd, fcntl.F_GETFL) | os.O_ASYNC)


def _first(sock: socket.socket) -> tuple[Start, list[bytearray]]:
    """The first message, and whatever came with it."""
    frames = Frames()
    while True:
        data = sock.recv(65536)
        if not data:
            os._exit(0)
        found = frames.feed(data)
        if found:
            start = to_worker.decode(found[0])
            assert isinstance(start, Start)
            return start, found[1:]


def _redirect_output(wire: Wire) -> None:
    """What the module prints or logs goes to the server's log, with the id of the request it belongs to."""
    sys.stdout = Lines(wire, "stdout")
    sys.stderr = Lines(wire, "stderr")
    handler = LogHandler(wire)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)

    def after_fork() -> None:
        # A forked child must not write into the socket; its output is its own.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        root.removeHandler(handler)

    os.register_at_fork(after_in_child=after_fork)


def _leave(code: int) -> None:
    """Ends this process without waiting for threads, which may never end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.finish() if isinstance(stream, Lines) else stream.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        _leave(main(int(sys.argv[1]), int(sys.argv[2])))
    except SystemExit as left:
        _leave(left.code if isinstance(left.code, int) else int(left.code is not None))
    except BaseException:
        traceback.print_exc()
        _leave(1)
