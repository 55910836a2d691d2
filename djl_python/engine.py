# SPDX-License-Identifier: Apache-2.0
"""Generates on the server's own engine from inside a handler; an extension that LMI does not have.

The payload is any body that the default handler reads (`inputs`, `prompt` or `messages`), the answer is what a client
would get for it. Asynchronous handlers use `generate` and `stream`. Synchronous ones run in a thread and use
`generate_sync` and `stream_sync`.
"""

import json
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping
from typing import Any, TypeVar

from djl_python import _bridge
from djl_python.outputs import _JSONEncoder

__all__ = ["EngineError", "generate", "generate_sync", "stream", "stream_sync"]

_T = TypeVar("_T")
_ADAPTER_HEADER = "x-amzn-sagemaker-adapter-identifier"
_ERROR_FIELDS = {"error", "code", "message", "type", "error_type"}
_STREAM = "async for ... in engine.stream(...)"
_END = object()


class EngineError(Exception):
    """The server refused the request, or failed at it.

    Attributes:
        code: the HTTP status that a client would have got.
        message: why.
    """

    def __init__(self, code: int, message: str):
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


async def generate(payload: Mapping[str, Any], adapter: str | None = None) -> Any:
    """Generates and waits for the whole answer.

    Args:
        payload: the request; `stream` in it is ignored.
        adapter: the name of a LoRA adapter to generate with.

    Returns:
        The decoded answer, a dict or a list.

    Raises:
        EngineError: the server refused the request, or failed at it.
        RuntimeError: this is not a handler that the server runs.
    """
    whole = {**payload, "stream": False} if "stream" in payload else payload
    response = await _request(whole, adapter)
    body = b"".join([chunk async for chunk in response.chunks])
    _check(response.status, body)
    return json.loads(body)


async def stream(payload: Mapping[str, Any], adapter: str | None = None) -> AsyncGenerator[Any]:
    """Generates and yields the answer as it grows. Leaving early ends the generation.

    Args:
        payload: the request; `stream` is set in a copy of it.
        adapter: the name of a LoRA adapter to generate with.

    Yields:
        The decoded objects, one per line.

    Raises:
        EngineError: the server refused the request, or failed at it, also after some lines.
        RuntimeError: this is not a handler that the server runs.
    """
    response = await _request({**payload, "stream": True}, adapter)
    try:
        if response.status >= 400:
            _check(response.status, b"".join([chunk async for chunk in response.chunks]))
        async for line in _lines(response):
            decoded = json.loads(line)
            if _is_error(decoded):
                raise _error_of(decoded, response.status)
            yield decoded
    finally:
        await _bridge.close(response)


def generate_sync(payload: Mapping[str, Any], adapter: str | None = None) -> Any:
    """`generate` for a handler that is a plain function.

    Raises:
        EngineError: the server refused the request, or failed at it.
        RuntimeError: this is not a handler that the server runs, or it runs on the event loop's own thread.
    """
    _check_thread("await engine.generate(...)")
    return _wait(generate(payload, adapter))


def stream_sync(payload: Mapping[str, Any], adapter: str | None = None) -> Generator[Any]:
    """`stream` for a handler that is a plain function.

    Raises:
        EngineError: the server refused the request, or failed at it, also after some lines.
        RuntimeError: this is not a handler that the server runs, or it runs on the event loop's own thread.
    """
    _check_thread(_STREAM)
    return _pull(stream(payload, adapter))


async def _request(payload: Mapping[str, Any], adapter: str | None) -> _bridge.Response:
    headers = {"content-type": "application/json"}
    if adapter:
        headers[_ADAPTER_HEADER] = adapter
    text = json.dumps(payload, ensure_ascii=False, cls=_JSONEncoder)
    return await _bridge.connected().request(text.encode("utf-8", "backslashreplace"), headers)


async def _lines(response: _bridge.Response) -> AsyncGenerator[bytes]:
    """The lines that hold JSON; of server-sent events what they carry, without the mark of their end."""
    rest = b""
    async for chunk in response.chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if found := _content(line):
                yield found
    if found := _content(rest):
        yield found


def _content(line: bytes) -> bytes:
    content = line.strip().removeprefix(b"data:").strip()
    return b"" if content == b"[DONE]" else content


def _is_error(decoded: Any) -> bool:
    return isinstance(decoded, dict) and bool(decoded.get("error")) and decoded.keys() <= _ERROR_FIELDS


def _check(status: int, body: bytes) -> None:
    if status < 400:
        return
    try:
        decoded = json.loads(body)
    except ValueError:
        decoded = body.decode("utf-8", "replace")
    raise _error_of(decoded, status)


def _error_of(decoded: Any, status: int) -> EngineError:
    """The error that a body tells of, in any of the server's envelopes; the status of a failed response wins."""
    told = decoded if isinstance(decoded, dict) else {"message": decoded}
    code = told.get("code")
    inner = told.get("error") or told.get("message")
    if isinstance(inner, dict):
        code = inner.get("code", code)
        inner = inner.get("message")
    if status >= 400 or not isinstance(code, int):
        code = status if status >= 400 else 424
    return EngineError(code, str(inner or f"the engine answered with status {code}"))


def _check_thread(instead: str) -> None:
    _bridge.connected()
    if _on_loop():
        raise RuntimeError(f"This would stop the event loop that it waits for: use `{instead}` in async handlers.")


def _on_loop() -> bool:
    """This is the thread of the handlers' loop."""
    import asyncio

    try:
        return asyncio.get_running_loop() is _bridge.loop
    except RuntimeError:
        return False


def _wait(work: Coroutine[Any, Any, _T]) -> _T:
    """Has the handlers' loop do it, and waits in this thread; a thread that is interrupted takes the work back."""
    import asyncio

    assert _bridge.loop is not None, "a bridge is connected together with its loop"
    future = asyncio.run_coroutine_threadsafe(work, _bridge.loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _pull(chunks: AsyncGenerator[Any]) -> Generator[Any]:
    _check_thread(_STREAM)
    try:
        while (chunk := _wait(_next(chunks))) is not _END:
            yield chunk
            _check_thread(_STREAM)
    finally:
        _leave(chunks)


def _leave(chunks: AsyncGenerator[Any]) -> None:
    """Ends a stream; without waiting where this is the loop's own thread, which may have collected a forgotten one."""
    import asyncio

    if _on_loop():
        assert _bridge.loop is not None, "it is running"
        asyncio.run_coroutine_threadsafe(chunks.aclose(), _bridge.loop)
    else:
        _wait(chunks.aclose())


async def _next(chunks: AsyncGenerator[Any]) -> Any:
    return await anext(chunks, _END)
