# SPDX-License-Identifier: Apache-2.0
"""Runs the calls of the user's functions on the worker's loop, which is the main thread's.

Coroutine functions run on the loop, plain functions on a thread of a bounded pool. Each stream has a window: its
generator is resumed only while fewer chunks are on their way than that.
"""

import asyncio
import contextvars
import inspect
import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Any

from djl_python import Input, _bridge
from djl_python.inputs import Properties, header_case
from handlers.worker import answers
from handlers.worker.failures import failure
from handlers.worker.inferences import Inferences
from handlers.worker.protocol import (
    Call,
    Cancel,
    Chunk,
    Credit,
    Frames,
    InferenceOpened,
    Nothing,
    Ping,
    Pong,
    Reply,
    Start,
    to_worker,
)
from handlers.worker.script import Script
from handlers.worker.streams import OutgoingStream
from handlers.worker.wire import Wire, request_id

_BREATH_S = 0.001
"""A generator that never waits still lets the loop run this often, for cancellations and other calls."""

logger = logging.getLogger(__name__)


class Runner:
    """The calls that are under way in this process.

    Args:
        module: the user's.
        start: the server's first message.
        wire: to the server.
    """

    def __init__(self, module: ModuleType, start: Start, wire: Wire):
        self._start = start
        self._wire = wire
        self._functions: Any = Script(module, start) if start.is_script else module
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._streams: dict[int, OutgoingStream] = {}
        self._finalizers: dict[int, Callable[[], Any]] = {}
        self._threads = ThreadPoolExecutor(start.num_threads, thread_name_prefix="handler")
        self._futures: dict[int, Future[Any]] = {}
        self._asked_about: int | None = None
        self._inferences = Inferences(wire)

    async def serve(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, rest: list[bytearray]) -> None:
        """Takes messages until the server closes the socket; `rest` came together with the first one."""
        _bridge.connect(self._inferences, loop)
        reader = _Reader(self._receive)
        await loop.create_connection(lambda: reader, sock=sock)
        for data in rest:
            self._receive(data)
        await reader.ended

    def _receive(self, data: bytearray) -> None:
        message = to_worker.decode(data)
        if isinstance(message, Call):
            task = self._tasks[message.id] = asyncio.get_running_loop().create_task(self._run(message))
            task.add_done_callback(lambda _: self._tasks.pop(message.id, None))
        elif isinstance(message, Credit):
            if (stream := self._streams.get(message.id)) is not None:
                stream.add_room(message.count)
        elif isinstance(message, Cancel):
            self._cancel(message.id)
        elif isinstance(message, Ping):
            self._asked_about = message.id
            self._answer_ping()
        elif isinstance(message, InferenceOpened | Chunk):
            self._inferences.receive(message)

    def _cancel(self, call_id: int) -> None:
        if (stream := self._streams.get(call_id)) is not None:
            stream.stop()
        if (task := self._tasks.get(call_id)) is not None:
            task.cancel()
        else:
            self._finalize(call_id)

    async def _run(self, call: Call) -> None:
        request_id.set(call.request_id)
        try:
            function = getattr(self._functions, call.function, None)
            if function is None:
                raise AttributeError(f"module {self._start.file!r} has no attribute {call.function!r}")
            result = await self._result(call.id, function, self._input(call))
            await self._answer(call.id, result, "batch_size" in call.properties)
        except asyncio.CancelledError:
            if was_cancelled():
                self._finalize(call.id)
            else:  # the user's code awaited something that was cancelled
                self._wire.send(failure(call.id, RuntimeError("cancelled")))
        except Exception as error:
            self._wire.send(failure(call.id, error))

    async def _result(self, call_id: int, function: Callable[..., Any], inputs: Input) -> Any:
        """What the function returns, whichever kind of function it is."""
        if _is_async(function):
            result = function(inputs)
        else:
            result = await self._in_thread(call_id, function, inputs)
        return await result if inspect.isawaitable(result) else result

    async def _in_thread(self, call_id: int, function: Callable[..., Any], *args: Any) -> Any:
        """The result of a plain function. A thread that was given up stays busy until its function returns."""
        context = contextvars.copy_context()
        future = self._futures[call_id] = self._threads.submit(context.run, _called, function, *args)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._freed, call_id))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_finalize_unseen)
            raise

    def _freed(self, call_id: int) -> None:
        self._futures.pop(call_id, None)
        if self._asked_about is not None:
            self._asked_about = None
            self._wire.send(Pong())

    def _answer_ping(self) -> None:
        """Says that calls can be taken: the loop runs, and the call in question keeps no other from a thread."""
        assert self._asked_about is not None
        future = self._futures.get(self._asked_about)
        num_busy = sum(one.running() for one in self._futures.values())
        if future is None or not future.running() or num_busy < self._start.num_threads:
            self._asked_about = None
            self._wire.send(Pong())

    async def _answer(self, call_id: int, result: Any, is_batch: bool) -> None:
        """Sends what the function returned."""
        if result is None:
            self._wire.send(Nothing(call_id))
        elif answers.is_stream(result, self._start.is_strict):
            await self._stream(call_id, result)
        else:
            piece = answers.whole(result, self._start.is_strict)
            if finalizer := answers.finalizer(result):
                self._finalizers[call_id] = finalizer
            self._wire.send(
                Reply(
                    call_id,
                    piece.status,
                    piece.message,
                    dict(piece.properties or {}),
                    piece.data,
                    finalizer is not None,
                    answers.parts(result) if is_batch else [],
                )
            )

    async def _stream(self, call_id: int, result: Any) -> None:
        stream = OutgoingStream(call_id, result, self._start.is_strict, self._wire)
        self._streams[call_id] = stream
        items = answers.source(result)
        try:
            if hasattr(items, "__aiter__"):
                await self._pump(stream, items)
            else:
                await self._in_thread(call_id, _pump_in_thread, stream, items)
        finally:
            del self._streams[call_id]
            if stream.finalizer is not None:
                self._finalizers[call_id] = stream.finalizer
                if not stream.is_open:
                    self._finalize(call_id)

    async def _pump(self, stream: OutgoingStream, items: Any) -> None:
        """Sends what an async generator yields; whatever ends it, it is closed."""
        breath = time.monotonic() + _BREATH_S
        try:
            async for item in items:
                if not stream.send(item):
                    break
                if stream.is_full:
                    await stream.room()
                elif time.monotonic() > breath:
                    await asyncio.sleep(0)
                    breath = time.monotonic() + _BREATH_S
        except asyncio.CancelledError:
            if was_cancelled():
                raise
            stream.fail(RuntimeError("cancelled"))
        except Exception as error:
            stream.fail(error)
        finally:
            if (close := getattr(items, "aclose", None)) is not None:
                await close()
        stream.end()

    def _finalize(self, call_id: int) -> None:
        """Runs what an answer left to be done, once."""
        if (finalizer := self._finalizers.pop(call_id, None)) is not None:
            context = contextvars.copy_context()
            self._threads.submit(context.run, _finalized, finalizer)

    def _input(self, call: Call) -> Input:
        """What LMI hands to the function."""
        headers = frozenset(call.headers)
        properties = {header_case(name) if name in headers else name: text for name, text in call.properties.items()}
        inputs = Input()
        inputs.function_name = call.function
        inputs.properties = Properties(properties, options=self._start.options)
        for key, data in call.content:
            inputs.content.add(key=key, value=data)
        return inputs


class _Reader(asyncio.Protocol):
    """The loop's side of the socket."""

    def __init__(self, receive: Callable[[bytearray], None]):
        self._receive = receive
        self._frames = Frames()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self._receive(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _is_async(function: Callable[..., Any]) -> bool:
    """Calling it gives a coroutine or a generator at once, without running the user's code."""
    while isinstance(function, partial):
        function = function.func
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call) or inspect.isgeneratorfunction(call)


def _called(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except StopIteration as error:  # which no future can carry
        raise RuntimeError("StopIteration") from error


def was_cancelled() -> bool:
    """The current task was told to end, rather than something that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _finalize_unseen(future: Future[Any]) -> None:
    """The answer of a plain function whose client has left: what it wants done is done."""
    answer = None if future.cancelled() or future.exception() is not None else future.result()
    if (finalizer := answers.finalizer(answer)) is not None:
        _finalized(finalizer)


def _finalized(finalizer: Callable[[], Any]) -> None:
    try:
        finalizer()
    except Exception:
        logger.exception("finalize failed")


def _pump_in_thread(stream: OutgoingStream, items: Any) -> None:
    """Sends what a plain iterable gives; runs on a thread, because nobody knows how long each item takes."""
    try:
        for item in items:
            if not stream.send(item) or not stream.wait_for_room():
                break
    except Exception as error:
        stream.fail(error)
    finally:
        if (close := getattr(items, "close", None)) is not None:
            close()
    stream.end()
