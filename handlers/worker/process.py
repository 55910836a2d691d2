# SPDX-License-Identifier: Apache-2.0
"""One worker process as the server sees it: started, called, ended. `supervisor.py` keeps one running.

The process has a session of its own. Whatever ends it, its whole process group ends with it, and every call that was
under way ends with `WorkerDied`.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from handlers.worker.protocol import (
    WINDOW,
    Call,
    Cancel,
    Chunk,
    Credit,
    Failed,
    Frames,
    Inference,
    InferenceCancel,
    InferenceCredit,
    Loaded,
    LoadFailed,
    Log,
    Nothing,
    Opened,
    Ping,
    Pong,
    Reason,
    Reply,
    Start,
    ToWorker,
    frame,
    to_server,
)

logger = logging.getLogger("model")

_CLOSE_S = 2.0
"""Seconds for a clean exit."""
_IDLE_CHECK_S = 0.05
_MOST_WAITING_BYTES = 256 * 1024 * 1024
_LAST_WORDS_S = 1.0
"""Seconds in which what a dead worker sent before its end is still read."""

Answer = Reply | Opened | Nothing
"""How a call can end well; the chunks of an `Opened` one are read with `WorkerProcess.chunks`."""


class WorkerDied(Exception):
    """The process ended while it was needed.

    Attributes:
        code: its exit code; minus the number of the signal that ended it.
    """

    def __init__(self, code: int):
        super().__init__(f"worker exited with code {code}")
        self.code = code


class LoadError(Exception):
    """The user's module did not load; the traceback is the user's."""

    def __init__(self, text: str, traceback: str = ""):
        super().__init__(text)
        self.traceback = traceback


class CallTimedOut(TimeoutError):
    """There was no answer in time; the call was cancelled in the worker.

    Attributes:
        call_id: of the call.
    """

    def __init__(self, call_id: int):
        super().__init__()
        self.call_id = call_id


class CallFailed(Exception):
    """The function failed before the first byte of its answer."""

    def __init__(self, reason: Reason, text: str, traceback: str):
        super().__init__(text)
        self.reason = reason
        self.traceback = traceback


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How to start a worker.

    Attributes:
        executable: the Python interpreter.
        environment: its variables.
        start: what to load.
    """

    start: Start
    executable: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(slots=True)
class _Stream:
    """Chunks that came and were not taken yet."""

    chunks: deque[Chunk] = field(default_factory=deque)
    waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class WorkerProcess(asyncio.Protocol):
    """One process; to be made on the loop that uses it.

    Args:
        spec: how to start it.
        on_inference: takes the worker's own requests, and what it says of them.

    Attributes:
        names: functions of the module that matter to the server.
        died: done once the process is gone; its exit code.
    """

    def __init__(self, spec: WorkerSpec, on_inference: Callable[[Inference | InferenceCancel | InferenceCredit], None]):
        self._spec = spec
        self._on_inference = on_inference
        self._frames = Frames()
        self._ids = itertools.count(1)
        loop = asyncio.get_running_loop()
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._streams: dict[int, _Stream] = {}
        self._loaded: asyncio.Future[list[str]] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._pong: asyncio.Future[None] | None = None
        self._transport: asyncio.WriteTransport
        self._process: asyncio.subprocess.Process
        self._watch: asyncio.Task[None]
        self.names: list[str] = []
        self.died: asyncio.Future[int] = loop.create_future()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def start(self) -> None:
        """Starts the process and loads the module. Whatever goes wrong, or is cancelled, nothing is left.

        Raises:
            LoadError: the module does not load, or the process ended while it loaded.
        """
        spawning = asyncio.ensure_future(self._spawn())
        try:
            await asyncio.shield(spawning)
            self.names = await self._loaded
        except BaseException:
            await asyncio.wait((spawning,))
            if spawning.exception() is None:
                await self.close()
            raise

    async def _spawn(self) -> None:
        try:
            ours, theirs = socket.socketpair()
            leash, self._leash = os.pipe()
        except OSError as error:
            raise LoadError(f"no worker can be started: {error.strerror}") from None
        arguments = ["-P", "-m", "handlers.worker.child", str(theirs.fileno()), str(leash)]
        try:
            self._process = await asyncio.create_subprocess_exec(
                self._spec.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), leash),
                cwd=self._spec.start.directory,
                env=dict(self._spec.environment),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(self._leash)
            raise LoadError(f"{self._spec.executable} cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
            os.close(leash)
        loop = asyncio.get_running_loop()
        ours.setblocking(False)
        self._transport, _ = await loop.create_connection(lambda: self, sock=ours)
        self._watch = loop.create_task(self._wait())
        self.send(self._spec.start)

    async def call(
        self,
        function: str,
        properties: dict[str, str],
        headers: list[str],
        content: list[tuple[str, bytes]],
        request_id: str,
        timeout_s: float | None = None,
    ) -> tuple[int, Answer]:
        """The id and the answer of one call; a stream is only opened. Cancelled, it cancels the call in the worker.

        Raises:
            CallTimedOut: there was no answer within `timeout_s` seconds.
            CallFailed: the function failed.
            WorkerDied: the process is gone.
        """
        if self.died.done():
            raise WorkerDied(self.died.result())
        call_id = next(self._ids)
        future = asyncio.get_running_loop().create_future()
        self._answers[call_id] = future
        self._streams[call_id] = _Stream()
        self.send(Call(call_id, function, properties, headers, content, request_id))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await future
        except BaseException as error:
            self._streams.pop(call_id, None)
            self.cancel(call_id)
            if isinstance(error, TimeoutError):
                raise CallTimedOut(call_id) from None
            raise
        finally:
            self._answers.pop(call_id, None)
        if not isinstance(answer, Opened):
            del self._streams[call_id]
        return call_id, answer

    async def chunks(self, call_id: int, first: bytes, gap_s: float) -> AsyncGenerator[bytes]:
        """The chunks of an opened stream, `first` included; closing it ends the generator in the worker.

        Raises:
            TimeoutError: the next one does not come within `gap_s` seconds.
            WorkerDied: the process is gone.
        """
        stream = self._streams[call_id]
        loop = asyncio.get_running_loop()
        num_taken, is_last = 1, False
        try:
            yield first
            while not is_last:
                while not stream.chunks:
                    if self.died.done():
                        raise WorkerDied(self.died.result())
                    stream.waiter = loop.create_future()
                    timer = loop.call_later(gap_s, _expire, stream.waiter)
                    try:
                        await stream.waiter
                    finally:
                        timer.cancel()
                chunk = stream.chunks.popleft()
                is_last = chunk.is_last
                num_taken += 1
                if num_taken >= WINDOW // 2:
                    self.send(Credit(call_id, num_taken))
                    num_taken = 0
                if chunk.data:
                    yield chunk.data
        finally:
            del self._streams[call_id]
            self.cancel(call_id)

    def drop(self, call_id: int) -> None:
        """Nobody will read this opened stream."""
        if self._streams.pop(call_id, None) is not None:
            self.cancel(call_id)

    def cancel(self, call_id: int) -> None:
        """The call's answer was delivered, or nobody wants it any more."""
        self.send(Cancel(call_id))

    def send(self, message: ToWorker) -> None:
        """Sends one message, unless the process is gone."""
        if not self.died.done() and not self._transport.is_closing():
            self._transport.write(frame(message))

    @property
    def is_backed_up(self) -> bool:
        """It has not read for so long that more requests would only fill this process's memory."""
        return self._transport.get_write_buffer_size() > _MOST_WAITING_BYTES

    async def is_responsive(self, call_id: int, timeout_s: float) -> bool:
        """Whether the worker, within so many seconds, can take calls although it was given this one, which is over."""
        if self._pong is None or self._pong.done():
            self._pong = asyncio.get_running_loop().create_future()
            self.send(Ping(call_id))
        done, _ = await asyncio.wait((self._pong, self.died), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)

    async def idle(self) -> None:
        """Waits until no call is under way."""
        while self._streams and not self.died.done():
            await asyncio.sleep(_IDLE_CHECK_S)

    def kill(self) -> None:
        """Ends the process and everything it started, at once; before there is one nothing happens."""
        if not hasattr(self, "_process") or self.died.done():
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """Ends the process: by closing the socket, and if that is not enough, at once."""
        self._transport.close()
        await asyncio.wait((self.died,), timeout=_CLOSE_S)
        self.kill()
        await self._watch

    async def _wait(self) -> None:
        """Runs until the process is gone, and settles what waited for it."""
        code = await self._process.wait()
        self.kill()
        os.close(self._leash)
        await asyncio.wait((self._closed,), timeout=_LAST_WORDS_S)
        self.died.set_result(code)
        self._transport.close()
        if not self._loaded.done():
            self._loaded.set_exception(LoadError(f"worker exited with code {code} while loading"))
        for future in self._answers.values():
            if not future.done():
                future.set_exception(WorkerDied(code))
        for stream in self._streams.values():
            stream.wake()

    def data_received(self, data: bytes) -> None:
        """As asyncio's protocols."""
        for message in self._frames.feed(data):
            self._receive(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio's protocols."""
        if not self._closed.done():
            self._closed.set_result(None)

    def _receive(self, data: bytearray) -> None:
        message = to_server.decode(data)
        if isinstance(message, Chunk):
            if (stream := self._streams.get(message.id)) is not None:
                stream.chunks.append(message)
                stream.wake()
        elif isinstance(message, Reply | Opened | Nothing):
            self._answer(message)
        elif isinstance(message, Failed):
            if (future := self._answers.get(message.id)) is not None and not future.done():
                future.set_exception(CallFailed(message.reason, message.text, message.traceback))
        elif isinstance(message, Log):
            origin = logger.getChild(message.logger) if message.logger else logger
            request = f" (request {message.request_id})" if message.request_id else ""
            origin.log(message.level, "%s%s", message.text, request)
        elif isinstance(message, Inference | InferenceCancel | InferenceCredit):
            self._on_inference(message)
        elif isinstance(message, Pong):
            if self._pong is not None and not self._pong.done():
                self._pong.set_result(None)
        elif not self._loaded.done():
            if isinstance(message, LoadFailed):
                self._loaded.set_exception(LoadError(message.text, message.traceback))
            elif isinstance(message, Loaded):
                self._loaded.set_result(message.names)

    def _answer(self, message: Answer) -> None:
        future = self._answers.get(message.id)
        if future is None or future.done():
            return
        if isinstance(message, Opened) and message.is_last:
            self._streams[message.id].chunks.append(Chunk(message.id, b"", True))
        future.set_result(message)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
