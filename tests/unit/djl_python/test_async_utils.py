# SPDX-License-Identifier: Apache-2.0
"""Frames as answers, and streams of them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from djl_python import Output
from djl_python.async_utils import (
    _extract_lora_adapter,
    create_non_stream_output,
    create_stream_chunk_output,
    handle_streaming_response,
)
from tests.unit.djl_python.test_inputs import request

pytestmark = pytest.mark.pure


class Answer(BaseModel):
    text: str


def frame(output: Output) -> dict[str, Any]:
    assert output.code == 200
    (only,) = output.content.values
    pairs: dict[str, Any] = only.pairs
    return pairs


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"m": 1, "t": "ä"}, '{"m": 1, "t": "ä"}\n'),
        ([1, 2], "[1, 2]\n"),
        (Answer(text="x"), '{"text":"x"}\n'),
        ("text", "text\n"),
        ("line\n", "line\n\n"),
    ],
)
def test_data(data: Any, line: str) -> None:
    assert frame(create_non_stream_output(data)) == {"data": line, "last": True}
    assert frame(create_stream_chunk_output(data, False)) == {"data": line, "last": False}


@pytest.mark.parametrize("data", [b"x", None, 5])
def test_data_of_other_types(data: Any) -> None:
    with pytest.raises(TypeError, match="must be text, a dict, a list or a pydantic object"):
        create_non_stream_output(data)


def test_headers() -> None:
    assert create_non_stream_output("x").properties == {"Content-Type": "application/json"}
    assert create_non_stream_output("x", {"Content-Type": "a/b", "X": "y"}).properties == {
        "Content-Type": "a/b",
        "X": "y",
    }
    assert create_stream_chunk_output("x", True).properties == {"Content-Type": "application/jsonlines"}


def test_errors() -> None:
    """The contract's cases G14 and G15."""
    assert frame(create_non_stream_output("", error="busy", code=429)) == {
        "data": "\n",
        "last": True,
        "error": "busy",
        "code": 429,
    }
    assert frame(create_non_stream_output("", error="busy")) == {"data": "\n", "last": True, "error": "busy"}


class Source:
    """Yields these chunks; remembers which were asked for, and whether it was closed."""

    def __init__(self, *chunks: Any):
        self.left = list(chunks)
        self.closed = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self.left:
            raise StopAsyncIteration
        chunk = self.left.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    async def aclose(self) -> None:
        self.closed = True


async def frames(source: Source, formatter: Any, **kwargs: Any) -> list[dict[str, Any]]:
    return [frame(output) async for output in handle_streaming_response(source, formatter, **kwargs)]


async def test_nothing_is_asked_for_after_the_last_chunk() -> None:
    """The contract's case G30."""
    source = Source("a", "b", "c")
    got = await frames(source, lambda c, tag: (c.upper() + tag, c == "b"), tag="!")
    assert got == [{"data": "A!\n", "last": False}, {"data": "B!\n", "last": True}]
    assert source.left == ["c"]
    assert source.closed


async def test_history() -> None:
    """The contract's case G31."""

    def formatter(chunk: str, history: list[str]) -> tuple[str, bool, list[str]]:
        history.append(chunk)
        return "".join(history), len(history) == 2, history

    got = await frames(Source("a", "b"), formatter, accumulate_chunks=True)
    assert [one["data"] for one in got] == ["a\n", "ab\n"]


async def test_a_formatter_that_raises() -> None:
    """The contract's cases G32 and G33."""

    def formatter(chunk: int) -> tuple[str, bool]:
        return str(1 // chunk), False

    source = Source(1, 0, 1)
    first, last = await frames(source, formatter)
    assert first == {"data": "1\n", "last": False}
    assert last == {"data": "\n", "last": True, "error": "integer division or modulo by zero", "code": 424}
    assert source.closed
    (only,) = await frames(Source(0), formatter)
    assert only["code"] == 424


@pytest.mark.parametrize(
    ("error", "text"),
    [(RuntimeError("boom"), "boom"), (KeyError("foo"), "KeyError: 'foo'"), (RuntimeError(), "RuntimeError")],
)
async def test_a_response_that_raises(error: Exception, text: str) -> None:
    got = await frames(Source("a", error), lambda chunk: (chunk, False))
    assert [one.get("error") for one in got] == [None, text]
    assert got[-1]["last"] is True


async def test_the_end_of_the_response_ends_the_stream() -> None:
    """The contract's case G34."""
    got = await frames(Source("a", "b"), lambda chunk: (chunk, False))
    assert [one["data"] for one in got] == ["a\n", "b\n"]


async def test_a_formatter_that_is_a_coroutine_function() -> None:
    async def formatter(chunk: str) -> tuple[str, bool]:
        return chunk * 2, False

    assert await frames(Source("a"), formatter) == [{"data": "aa\n", "last": False}]


def test_the_adapter_of_a_request() -> None:
    payload = {"adapters": "a", "inputs": "x"}
    inputs = request(b"")
    assert _extract_lora_adapter(inputs, payload) == "a"
    assert payload == {"inputs": "x"}
    inputs.properties["x-amzn-sagemaker-adapter-identifier"] = "h"
    assert _extract_lora_adapter(inputs, {"adapters": "a"}) == "h"
    assert _extract_lora_adapter(request(b""), [1]) is None
