# SPDX-License-Identifier: Apache-2.0
"""Answers as response frames, whole or streamed, for handlers of both modes."""

import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from typing import Any

from djl_python.inputs import Input
from djl_python.outputs import Output, _JSONEncoder

__all__ = ["create_non_stream_output", "create_stream_chunk_output", "handle_streaming_response"]

_ADAPTER_HEADER = "X-Amzn-SageMaker-Adapter-Identifier"


def create_non_stream_output(
    data: Any, properties: Mapping[str, Any] | None = None, error: Any = None, code: int | None = None
) -> Output:
    """A whole answer, one line of JSON or text.

    Args:
        data: text as it is; a dict, a list or a pydantic object as JSON on one line. A line end is always added.
        properties: response headers; a `Content-Type` here replaces `application/json`.
        error: what went wrong; the client gets it with `code`, in place of `data`.
        code: the HTTP status of an error. The `code` of the Output itself stays 200.

    Raises:
        TypeError: `data` is of another type.
    """
    output = _create_output(data, True, "application/json", error, code)
    for key, value in (properties or {}).items():
        output.add_property(key, value)
    return output


def create_stream_chunk_output(data: Any, last_chunk: bool, error: Any = None, code: int | None = None) -> Output:
    """One chunk of a streamed answer; arguments as for `create_non_stream_output`.

    Args:
        data: one line.
        last_chunk: nothing is sent after this one. A stream also ends when its generator does.
        error: what went wrong.
        code: the HTTP status of an error, where nothing was sent before.

    Raises:
        TypeError: `data` is neither text nor something for JSON.
    """
    return _create_output(data, last_chunk, "application/jsonlines", error, code)


async def handle_streaming_response(
    response: AsyncIterable[Any],
    stream_output_formatter: Callable[..., Any],
    accumulate_chunks: bool = False,
    **kwargs: Any,
) -> AsyncGenerator[Output]:
    """Formats the chunks of a response, and closes it when it is done.

    Args:
        response: what to format; it is asked for no chunk after the last one.
        stream_output_formatter: called with a chunk and `kwargs`, a function or a coroutine function; returns
            `(data, last)`.
        accumulate_chunks: the formatter gets a `history` too, a list that is empty at first, and returns
            `(data, last, history)`.
        **kwargs: passed on to every call.

    Yields:
        A chunk per chunk; where `response` or the formatter raises, a last one with the error and code 424.
    """
    history: Any = []
    try:
        async for chunk in response:
            extra = {"history": history} if accumulate_chunks else {}
            formatted = stream_output_formatter(chunk, **extra, **kwargs)
            if hasattr(formatted, "__await__"):
                formatted = await formatted
            if accumulate_chunks:
                data, last, history = formatted
            else:
                data, last = formatted
            yield create_stream_chunk_output(data, last)
            if last:
                return
    except Exception as error:
        yield create_stream_chunk_output("", True, error=_reason(error), code=424)
    finally:
        if hasattr(response, "aclose"):
            await response.aclose()


def _create_output(data: Any, last: bool, content_type: str, error: Any, code: int | None) -> Output:
    frame: dict[str, Any] = {"data": _line(data), "last": last}
    if error:
        frame["error"] = error
    if code:
        frame["code"] = code
    return Output().add_property("Content-Type", content_type).add(Output.binary_encode(frame))


def _extract_lora_adapter(inputs: Input, payload: Any) -> str | None:
    """The adapter that a request names in its header; else the one in the body, which is taken out of `payload`."""
    named = inputs.get_property(_ADAPTER_HEADER)
    if not named and isinstance(payload, dict):
        named = payload.pop("adapters", None)
    return named or None


def _line(data: Any) -> str:
    if isinstance(data, str):
        return data + "\n"
    if isinstance(data, dict | list):
        return json.dumps(data, ensure_ascii=False, cls=_JSONEncoder) + "\n"
    if hasattr(data, "model_dump_json"):
        return f"{data.model_dump_json()}\n"
    raise TypeError(f"the data of an output must be text, a dict, a list or a pydantic object, not {type(data)}")


def _reason(error: Exception) -> str:
    """The text of an exception; with its type where that text says little."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) else text or type(error).__name__
