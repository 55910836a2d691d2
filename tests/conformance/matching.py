# SPDX-License-Identifier: Apache-2.0
"""Compares an answer with an expectation. `<int>`, `<str>`, `<float>`, `<any>`, `<uuid>`, `<re:...>` are patterns."""

import io
import json
import re
from collections.abc import Sequence
from typing import Any

import httpx

_KINDS = {"<int>": int, "<str>": str, "<float>": (int, float)}
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def assert_matches(actual: Any, expected: Any, where: str, exact: bool = False) -> None:
    """`actual` is what `expected` says; objects may have further keys unless `exact`."""
    if isinstance(expected, str) and expected.startswith("<") and expected.endswith(">"):
        _assert_pattern(actual, expected, where)
    elif isinstance(expected, dict):
        assert isinstance(actual, dict), f"{where}: {actual!r} is not an object"
        if exact:
            assert set(actual) == set(expected), f"{where}: keys {sorted(actual)}, expected {sorted(expected)}"
        for key, value in expected.items():
            assert key in actual, f"{where}: no {key!r} in {actual!r}"
            assert_matches(actual[key], value, f"{where}.{key}", exact)
    elif isinstance(expected, list):
        assert isinstance(actual, list), f"{where}: {actual!r} is not a list"
        assert len(actual) == len(expected), f"{where}: {len(actual)} items, expected {len(expected)}"
        for number, value in enumerate(expected):
            assert_matches(actual[number], value, f"{where}[{number}]", exact)
    else:
        assert actual == expected, f"{where}: {actual!r}, expected {expected!r}"


def assert_response(response: httpx.Response, expect: dict[str, Any]) -> None:
    """The whole of one HTTP answer: status, headers, body or lines."""
    assert response.status_code == expect["status"], response.text
    for name, value in expect.get("headers", {}).items():
        if value is None:
            assert name not in response.headers
        else:
            assert_matches(response.headers.get(name), value, f"header {name}")
    if "json" in expect:
        assert_matches(response.json(), expect["json"], "body")
    if "json_equal" in expect:
        assert_matches(response.json(), expect["json_equal"], "body", exact=True)
    if "body" in expect:
        assert response.text == expect["body"]
    for place, text in expect.get("at", {}).items():
        assert response.content[place : place + len(text)] == text.encode()
    if "ndlist" in expect or "npz" in expect:
        _assert_arrays(response.content, expect)
    if "each_line" in expect:
        _assert_each_line(response.text, expect["each_line"])
    if "data_lines" in expect:
        _assert_data_lines(response.text, expect["data_lines"])
    if "lines" in expect:
        _assert_lines(response.text, expect["lines"])
    if "events" in expect:
        _assert_events(response.text, expect["events"])


def assert_chunks(chunks: Sequence[bytes], expect: dict[str, Any]) -> None:
    """How many writes a streamed body came in (`count`), and which one is the `last`."""
    if "count" in expect:
        assert len(chunks) == expect["count"], chunks
    if "last" in expect:
        assert chunks[-1] == expect["last"].encode(), chunks


def array(item: dict[str, Any]) -> Any:
    """A numpy array, from its data type and its values."""
    import numpy

    ((kind, values),) = item.items()
    return numpy.array(values, kind)


def _assert_arrays(body: bytes, expect: dict[str, Any]) -> None:
    """`ndlist` is a list of arrays in DJL's format, `npz` names to arrays in numpy's."""
    import numpy

    from djl_python.np_util import from_nd_list

    if "npz" in expect:
        with numpy.load(io.BytesIO(body), allow_pickle=False) as archive:
            found = [archive[name] for name in archive.files]
            assert archive.files == list(expect["npz"])
        wanted = [array(item) for item in expect["npz"].values()]
    else:
        found, wanted = from_nd_list(body), [array(item) for item in expect["ndlist"]]
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        numpy.testing.assert_array_equal(one, other)


def _assert_each_line(text: str, expect: Sequence[Any]) -> None:
    """The lines of a body: text as it is, objects by their value."""
    assert text.endswith("\n"), repr(text[-20:])
    lines = text.removesuffix("\n").split("\n")
    assert len(lines) == len(expect), text
    for number, (line, wanted) in enumerate(zip(lines, expect, strict=True)):
        assert_matches(line if isinstance(wanted, str) else json.loads(line), wanted, f"line {number}", exact=True)


def _assert_data_lines(text: str, expect: dict[str, Any]) -> None:
    """`count` lines that are not blank, each with an event's prefix; what the `first` says; the last is the end."""
    lines = [line for line in text.split("\n") if line]
    assert len(lines) == expect["count"], text
    assert all(line.startswith("data: ") for line in lines), text
    assert lines[-1] == "data: [DONE]"
    assert_matches(json.loads(lines[0].removeprefix("data: ")), expect["first"], "first line")


def _assert_lines(text: str, expect: dict[str, Any]) -> None:
    """`count`, `each`, `first`, `last`, `texts` and how many blank lines end the stream (`blank`)."""
    lines = [json.loads(line) for line in text.split("\n") if line]
    if "count" in expect:
        assert len(lines) == expect["count"], text
    for number, line in enumerate(lines):
        assert_matches(line, expect.get("each", {}), f"line {number}")
    assert_matches(lines[0], expect.get("first", {}), "first line")
    assert_matches(lines[-1], expect.get("last", {}), "last line")
    if "tokens" in expect:
        assert [line["token"]["text"] for line in lines] == expect["tokens"]
    if "ids" in expect:
        assert [line["token"]["id"] for line in lines] == expect["ids"]
    if "blank" in expect:
        assert text.endswith("\n" * (expect["blank"] + 1)), repr(text[-20:])
        assert not text.endswith("\n" * (expect["blank"] + 2)), repr(text[-20:])


def _assert_events(text: str, expect: list[Any] | dict[str, Any]) -> None:
    """The data of every server-sent event, in order, `[DONE]` as it is; or `first`, `last` and the `content` of a chat.

    The latter because an engine that is ahead of its client puts several tokens into one event.
    """
    assert text.endswith("\n\n"), repr(text[-20:])
    events = [event.removeprefix("data:").strip() for event in text.removesuffix("\n\n").split("\n\n")]
    found = [event if event == "[DONE]" else json.loads(event) for event in events]
    if isinstance(expect, list):
        assert_matches(found, expect, "events")
        return
    assert found.pop() == "[DONE]"
    assert_matches(found[0], expect["first"], "first event")
    assert_matches(found[-1], expect["last"], "last event")
    assert "".join(event["choices"][0]["delta"]["content"] for event in found) == expect["content"]
    assert [event["choices"][0]["delta"].get("role") for event in found[1:]] == [None] * (len(found) - 1)


def _assert_pattern(actual: Any, pattern: str, where: str) -> None:
    if pattern == "<any>":
        return
    if pattern.startswith("<re:"):
        assert isinstance(actual, str), f"{where}: {actual!r} is not a string"
        assert re.search(pattern[4:-1], actual, re.DOTALL), f"{where}: {actual!r} does not match {pattern}"
    elif pattern == "<uuid>":
        assert isinstance(actual, str), f"{where}: {actual!r} is not a string"
        assert re.fullmatch(_UUID, actual), f"{where}: {actual!r}"
    else:
        value = int(actual) if pattern == "<int>" and isinstance(actual, str) and actual.isdigit() else actual
        assert isinstance(value, _KINDS[pattern]), f"{where}: {actual!r} is not {pattern}"
        assert not isinstance(value, bool), f"{where}: {actual!r} is not {pattern}"
