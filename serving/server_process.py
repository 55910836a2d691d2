# SPDX-License-Identifier: Apache-2.0
"""`ServerProcess`: a server of one's own, for programs, notebooks and tests, which is gone when they are done with it.

Users import it from `serving`. It knows the command line of `lmi serve` and nothing else of the server.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import psutil

COMMAND = (sys.executable, "-P", "-m", "serving", "serve")
_STOP_S = 20.0
"""How long a server may take to end by itself once it is asked to."""
_CHILDREN_S = 3.0
"""How long its children may take after it; Python's resource tracker cleans up in that time."""
_POLL_S = 0.05
_NUM_LAST_LINES = 40
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class StartFailed(RuntimeError):
    """The server ended before it was ready.

    Attributes:
        exit_code: of the process; negative for the signal that killed it.
        last_lines: what it printed last.
    """

    def __init__(self, exit_code: int, last_lines: Sequence[str]):
        self.exit_code = exit_code
        self.last_lines = list(last_lines)
        printed = "".join(f"\n{line}" for line in self.last_lines)
        super().__init__(
            f"the server ended with status {exit_code} before it was ready{':' if printed else ''}{printed}"
        )


class ServerProcess:
    """`lmi serve` as a process of this program, on a free port of this machine unless it is told otherwise.

        with ServerProcess("org/name", {"max_model_len": 4096}) as server:
            client = openai.OpenAI(base_url=server.base_url, api_key="EMPTY")

    The block begins when the server can answer, and when it ends neither the server nor a child of it is there. `async
    with` does the same without blocking the loop. `start`, `wait` and `close` do it step by step. A server that nobody
    closed is closed when the object goes away, or at the end of the program, unless a signal kills that.

    Args:
        model: A Hub id or a directory; None where `args` or `flags` say it (`{"demo": True}`).
        args: Flags by name, with dashes or underscores: True is a bare switch, False and None leave the flag out, a
            mapping is written as JSON, a list as several words, everything else as it prints. What is on by default is
            turned off by its other name: `{"no_enable_prefix_caching": True}`.
        host: Where to listen.
        port: 0 takes a free one.
        flags: Further flags as they stand on a command line.
        env: Variables to set for the server, beside those of this process.
        output: A file to add the server's output to; by default it is passed on to this process's standard error.
        command: What starts the server, in place of this Python's `lmi serve`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        args: Mapping[str, Any] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        output: str | os.PathLike[str] | None = None,
        command: Sequence[str] = COMMAND,
    ):
        words = [] if model is None else [os.fspath(model)]
        self._command = [*command, *words, *as_flags(args or {}), *flags, f"--host={host}", f"--port={port}"]
        self._host = host
        self._env = {**os.environ, **(env or {})}
        self._output = None if output is None else Path(output)
        self._process: subprocess.Popen[bytes] | None = None
        self._port_file = Path()
        self._port = 0
        self._last_lines: deque[str] = deque(maxlen=_NUM_LAST_LINES)
        self._reader: threading.Thread | None = None
        self._end: weakref.finalize[..., Any] | None = None

    def start(self) -> "ServerProcess":
        """Starts the process and returns at once.

        Raises:
            RuntimeError: it was started and not closed.
            OSError: `output` cannot be written.
        """
        if self._end is not None and self._end.alive:
            raise RuntimeError("the server was started already")
        file = None if self._output is None else self._output.open("ab", buffering=0)
        directory = TemporaryDirectory(prefix="lmi-server-")
        self._port, self._port_file = 0, Path(directory.name) / "port"
        self._last_lines = deque(maxlen=_NUM_LAST_LINES)
        # A session of its own: a Ctrl-C in a terminal is this program's, which then asks the server once.
        self._process = subprocess.Popen(
            [*self._command, f"--port-file={self._port_file}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._env,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=_copy, args=(self._process.stdout, file, self._last_lines), daemon=True)
        self._reader.start()
        self._end = weakref.finalize(self, _end, os.getpid(), self._process, self._reader, directory)
        return self

    def wait(self, timeout_s: float | None = None) -> "ServerProcess":
        """Returns when the server can answer.

        Args:
            timeout_s: How long to wait; None leaves it to the server, whose `option.model_loading_timeout` ends a
                start that takes too long.

        Raises:
            StartFailed: the process ended first.
            TimeoutError: it did not get ready in time; it goes on.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        process, reader = self._started()
        while not self._port_file.exists():
            if process.poll() is not None:
                reader.join(_CHILDREN_S)
                raise StartFailed(process.returncode, self._last_lines)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"the server is not ready after {timeout_s:g} s")
            time.sleep(_POLL_S)
        self._port = int(self._port_file.read_text("ascii"))
        return self

    def close(self) -> None:
        """Ends the server: SIGINT, 20 s to leave, then a kill, of whatever it started too. Again, it does nothing."""
        if self._end is not None:
            self._end()

    def __enter__(self) -> "ServerProcess":
        try:
            return self.start().wait()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> "ServerProcess":
        self.start()
        try:
            return await asyncio.to_thread(self.wait)
        except BaseException:
            await asyncio.to_thread(self.close)
            raise

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._started()[0].pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._started()[0].poll()

    @property
    def port(self) -> int:
        """Where it listens, once it is ready."""
        if not self._port:
            raise RuntimeError("the port is known once wait() has returned")
        return self._port

    @property
    def url(self) -> str:
        """The server's address from this machine, without a path."""
        host = _ANY_ADDRESS.get(self._host, self._host)
        has_certificate = any(word.replace("_", "-").startswith("--ssl-certfile") for word in self._command)
        return f"http{'s' if has_certificate else ''}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What OpenAI's clients call the base URL."""
        return f"{self.url}/v1"

    def _started(self) -> tuple["subprocess.Popen[bytes]", threading.Thread]:
        if self._process is None or self._reader is None:
            raise RuntimeError("the server was not started")
        return self._process, self._reader


@contextmanager
def all_ready(*servers: ServerProcess, timeout_s: float | None = None) -> Iterator[tuple[ServerProcess, ...]]:
    """Several servers at once, which load their models at the same time; all of them are closed with the block.

    Args:
        servers: Not started yet.
        timeout_s: As for `ServerProcess.wait`, for each of them.

    Yields:
        The servers, every one ready.
    """
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.close)
            server.start()
        for server in servers:
            server.wait(timeout_s)
        yield servers


def as_flags(args: Mapping[str, Any]) -> list[str]:
    """Words of a command line for flags by name, as `ServerProcess` describes them."""
    words: list[str] = []
    for name, value in args.items():
        flag = re.sub("^[^.]*", lambda first: first[0].replace("_", "-"), f"--{name}")
        if value is True:
            words.append(flag)
        elif isinstance(value, Mapping):
            words.append(f"{flag}={json.dumps(value)}")
        elif isinstance(value, list | tuple):
            words += [flag, *(json.dumps(item) if isinstance(item, Mapping) else str(item) for item in value)]
        elif value is not False and value is not None:
            words.append(f"{flag}={value}")
    return words


def _copy(output: IO[bytes], file: IO[bytes] | None, last_lines: deque[str]) -> None:
    """Passes on what the server prints, so that it never waits for a reader, and remembers the end of it."""
    with output, file or nullcontext():
        for line in output:
            text = line.decode("utf-8", "replace")
            last_lines.append(text.rstrip("\n"))
            with suppress(OSError, ValueError):  # nobody is there any more; the server goes on
                if file is None:
                    sys.stderr.write(text)
                else:
                    file.write(line)


def _end(
    owner: int, process: "subprocess.Popen[bytes]", reader: threading.Thread, directory: "TemporaryDirectory[str]"
) -> None:
    """Afterwards neither the process nor anything it started is there."""
    if os.getpid() != owner:  # a fork of the program that started it, whose server it is not
        return
    family = _family(process.pid)
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
    finally:
        family |= _family(process.pid)
        if process.poll() is None:
            process.kill()
        process.wait()
        _wait(family)
        for one in filter(_is_alive, family):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        _wait(family)
        reader.join(_CHILDREN_S)
        directory.cleanup()


def _wait(family: set[psutil.Process]) -> None:
    """Until all of them are gone, or have had their time."""
    deadline = time.monotonic() + _CHILDREN_S
    while any(map(_is_alive, family)) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _is_alive(process: psutil.Process) -> bool:
    """It runs; what has ended and was not yet waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _family(pid: int) -> set[psutil.Process]:
    """Every process of the session that `pid` leads, and what it started outside of it; not itself."""
    found: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        found |= set(psutil.Process(pid).children(recursive=True))
    for one in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(one.pid) == pid and one.pid != pid:
                found.add(one)
    return found
