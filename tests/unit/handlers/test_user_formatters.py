# SPDX-License-Identifier: Apache-2.0
"""The user's formatters between client and engine: what they get, what becomes of what they return, who is asked."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from handlers import generation, user_code
from handlers.base import Handler, InferenceRequest
from handlers.default import DefaultHandler
from handlers.dict_access import with_dict_access
from handlers.embedding import EmbeddingHandler
from handlers.rolling_batch import RollingBatchHandler
from handlers.user_formatters import FormatterLoadError, UserFormatters
from serving.errors import EngineError, PayloadError
from serving.schemas.generation import GenerationRequest, LmiRequest
from serving.schemas.output import Defaults
from tests.conftest import app_on, client_of
from tests.fakes import Answer, Choice, EchoEngine, Usage

pytestmark = pytest.mark.pure
HEADER = "x-amzn-sagemaker-adapter-identifier"
MARKS = """
def input_formatter(function):
    function.is_input_formatter = True
    return function

def output_formatter(function):
    function.is_output_formatter = True
    return function
"""
HI = {"inputs": "hi"}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
FAILED = "Custom formatter failed: Custom {} formatter execution failed: "


@pytest.fixture
def echo() -> EchoEngine:
    return EchoEngine(adapters=["a1", "a-b", "a.b"])


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("_lmi_formatters_") or name == "helper":
            del sys.modules[name]


def write(directory: Path, source: str) -> Path:
    """A `model.py` with marks at hand."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.py"
    path.write_text(MARKS + source)
    return path


def loaded(directory: Path, source: str) -> UserFormatters:
    return UserFormatters.load(user_code.read(write(directory, source)))


async def post(handler: Handler, engine: EchoEngine, body: Any, **headers: str) -> httpx.Response:
    """The answer to a payload; bytes are sent as they are."""
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    async with client_of(app_on(engine, handler)) as client:
        return await client.post("/invocations", headers=headers, **given)


def default(engine: EchoEngine, formatters: UserFormatters) -> DefaultHandler:
    return DefaultHandler(engine, Defaults(), formatters)


def rolling(engine: EchoEngine, formatters: UserFormatters) -> RollingBatchHandler:
    return RollingBatchHandler(engine, Defaults("rolling_batch"), True, True, formatters)


INPUT = {
    "G54": ("def f(payload, tokenizer=None, **kw): return {'inputs': 'F:' + payload['q']}", {"q": "x"}, "F:x"),
    "G55 no keywords": ("def f(payload): return {'inputs': 'F:' + payload['q']}", {"q": "x"}, "F:x"),
    "tokenizer": (
        "def f(payload, tokenizer): return {'inputs': tokenizer.decode(tokenizer.encode(payload['q']))}",
        {"q": "x"},
        "x",
    ),
    "keyword only": ("def f(payload, *, tokenizer): return {'inputs': str(bool(tokenizer))}", HI, "True"),
    "first parameter of that name": ("def f(tokenizer): return {'inputs': tokenizer['q']}", {"q": "x"}, "x"),
    "coroutine": ("async def f(payload): return {'inputs': 'F:' + payload['q']}", {"q": "x"}, "F:x"),
    "no object": ("def f(payload): return {'inputs': payload[0]}", ["x"], "x"),
}


@pytest.mark.parametrize(("source", "body", "prompt"), INPUT.values(), ids=INPUT)
@pytest.mark.parametrize("make", [default, rolling])
async def test_input(tmp_path: Path, echo: EchoEngine, make: Any, source: str, body: Any, prompt: str) -> None:
    response = await post(make(echo, loaded(tmp_path, f"@input_formatter\n{source}")), echo, body)
    assert (response.status_code, response.json()) == (200, {"generated_text": f"D:{prompt}"})


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("text/plain", b"yo", ["yo"]),
        ("text/csv", b"inputs,n\na,1\nb,2\n", ["a", "b"]),
        ("text/csv", b"question,n\na,1\n", [{"question": "a", "n": "1"}]),
        ("image/png", b"\x89PNG", "b'\\x89PNG'"),
    ],
)
async def test_input_of_other_types(
    tmp_path: Path, echo: EchoEngine, content_type: str, body: bytes, expected: object
) -> None:
    source = """
import json
@input_formatter
def f(payload):
    given = payload["inputs"]
    return {"inputs": json.dumps(given, default=str) if isinstance(given, list) else str(given)}
"""
    handler = default(echo, loaded(tmp_path, source))
    response = await post(handler, echo, body, **{"content-type": content_type})
    text = json.dumps(expected) if isinstance(expected, list) else expected
    assert response.json() == {"generated_text": f"D:{text}"}


NOT_READ = {
    "no JSON": (b"{", "application/json", "Input parsing failed: Expecting property name"),
    "CSV without header": (b"x,y\n1,2", "text/csv", "Input parsing failed: a CSV needs a header with one of"),
    "G56": (b'{"q": 1}', "application/json", FAILED.format("input") + "ValueError: bad q"),
    "no dict": (b'{"r": 1}', "application/json", FAILED.format("input") + "TypeError: f returned int, expected a dict"),
    "exit": (b'{"e": 1}', "application/json", FAILED.format("input") + "SystemExit: 3"),
    "end of an iterator": (b'{"s": 1}', "application/json", FAILED.format("input") + "RuntimeError: coroutine"),
}


@pytest.mark.parametrize(("body", "content_type", "text"), NOT_READ.values(), ids=NOT_READ)
@pytest.mark.parametrize("keyword", ["", "async "])
async def test_input_that_fails(
    tmp_path: Path, echo: EchoEngine, keyword: str, body: bytes, content_type: str, text: str
) -> None:
    source = f"""
import sys
@input_formatter
{keyword}def f(payload):
    if "q" in payload: raise ValueError("bad q")
    if "e" in payload: sys.exit(3)
    if "s" in payload: next(iter(()))
    return 5
"""
    response = await post(default(echo, loaded(tmp_path, source)), echo, body, **{"content-type": content_type})
    assert (response.status_code, response.json()["code"], echo.calls) == (424, 424, 0)
    assert response.json()["error"].startswith(text)


async def test_first_mark_by_alphabet(tmp_path: Path, echo: EchoEngine) -> None:
    """G63."""
    source = """
@input_formatter
def b_fmt(p): return {"inputs": "b"}
@input_formatter
def a_fmt(p): return {"inputs": "a"}
"""
    response = await post(default(echo, loaded(tmp_path, source)), echo, HI)
    assert response.json() == {"generated_text": "D:a"}


WRITES = "200 application/json "
OUTPUT = {
    "G57 attributes": ("return {'wrapped': r.choices[0].text}", HI, '{"wrapped": "D:hi"}'),
    "G59 like a dict": (
        "return {'w': r['choices'][0]['text'], 'h': 'choices' in r, 'n': 'x' in r, 'd': r.get('x', 5)}",
        HI,
        '{"w": "D:hi", "h": true, "n": false, "d": 5}',
    ),
    "OpenAI body": ("return {'t': r.choices[0].text}", {"prompt": "hi"}, '{"t": "D:hi"}'),
    "chat": ("return {'t': r['choices'][0]['message']['content']}", CHAT, '{"t": "D:hi"}'),
    "usage": ("return {'n': r.usage.completion_tokens}", HI, '{"n": 4}'),
    "batch": ("return [c.text for c in r.choices]", {"inputs": ["a", "é"]}, '["D:a", "D:é"]'),
    "text": ("return 'as it is'", HI, "as it is"),
    "changed in place": (
        "r['choices'][0]['text'] = 'x'\n    return {**r, 'choices': [c.text for c in r.choices], 'usage': 1}",
        HI,
        '{"id": "cmpl-0", "object": "text_completion", "created": 1, "model": "m0", "choices": ["x"], "usage": 1}',
    ),
    "object inside": (
        "return {'u': r.usage}",
        HI,
        '{"u": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}}',
    ),
    "half a pair": ("return {'t': chr(0xd800)}", HI, '{"t": "\\ud800"}'),
}


@pytest.mark.parametrize(("source", "body", "text"), OUTPUT.values(), ids=OUTPUT)
@pytest.mark.parametrize("keyword", ["", "async "])
async def test_output(
    tmp_path: Path, echo: EchoEngine, keyword: str, source: str, body: dict[str, Any], text: str
) -> None:
    handler = default(echo, loaded(tmp_path, f"@output_formatter\n{keyword}def f(r):\n    {source}\n"))
    response = await post(handler, echo, body)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.text == text + "\n"


async def test_output_unchanged(tmp_path: Path, echo: EchoEngine) -> None:
    """G58."""
    response = await post(default(echo, loaded(tmp_path, "@output_formatter\ndef f(r): return r")), echo, HI)
    assert response.text.endswith("}\n")
    assert response.json()["object"] == "text_completion"
    assert response.json()["choices"] == [{"index": 0, "text": "D:hi", "logprobs": None, "finish_reason": "stop"}]


@pytest.mark.parametrize(
    "body", [HI, CHAT, {"prompt": "hi", "max_gen_len": 5}, {"inputs": "hi", "model": "nope"}], ids=str
)
async def test_output_in_rolling_batch(tmp_path: Path, echo: EchoEngine, body: dict[str, Any]) -> None:
    source = """
@output_formatter
def f(r): return {"t": r.choices[0].message.content if hasattr(r.choices[0], "message") else r.choices[0].text}
"""
    response = await post(rolling(echo, loaded(tmp_path, source)), echo, body)
    assert (response.status_code, response.text) == (200, '{"t": "D:hi"}\n')


OUTPUT_FAULTS = {
    "raises": ("raise KeyError('choice')", "KeyError: 'choice'"),
    "without text": ("raise ValueError", "ValueError"),
    "wrong type": (
        "return 5",
        "TypeError: f returned int, expected a dict, a list, a str or an object with model_dump",
    ),
    "bytes": (
        "return b'x'",
        "TypeError: f returned bytes, expected a dict, a list, a str or an object with model_dump",
    ),
    "nothing": ("pass", "TypeError: f returned NoneType, expected a dict, a list, a str or an object with model_dump"),
    "no JSON": ("return {'x': object()}", "TypeError: Object of type object is not JSON serializable"),
}


@pytest.mark.parametrize(("source", "text"), OUTPUT_FAULTS.values(), ids=OUTPUT_FAULTS)
async def test_output_that_fails(
    tmp_path: Path, echo: EchoEngine, caplog: pytest.LogCaptureFixture, source: str, text: str
) -> None:
    handler = default(echo, loaded(tmp_path, f"@output_formatter\ndef f(r): {source}"))
    response = await post(handler, echo, HI, **{"x-request-id": "r-1"})
    assert (response.status_code, response.headers["content-type"]) == (424, "application/json")
    assert response.json() == {"error": FAILED.format("output") + text, "code": 424}
    (record,) = [record for record in caplog.records if record.name == "handlers.user_formatters"]
    assert record.getMessage() == "request r-1: Custom output formatter execution failed in f"
    assert record.exc_info is not None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"inputs": "hi", "model": "nope"}, "The model `nope` does not exist."),
        ({"inputs": "x" * 401}, "Input parsing failed: the prompt is longer than the maximum model length of 400"),
        ({"inputs": ""}, "Input parsing failed: inputs must not be empty"),
    ],
)
async def test_refusals_are_not_formatted(
    tmp_path: Path, echo: EchoEngine, stream: bool, body: dict[str, Any], text: str
) -> None:
    """G64, G64b."""
    handler = default(echo, loaded(tmp_path, "@output_formatter\ndef f(r): return {'called': True}"))
    response = await post(handler, echo, body | {"stream": stream})
    assert (response.status_code, response.json()) == (424, {"code": 424, "error": text})


async def streamed(handler: Handler, engine: EchoEngine, body: dict[str, Any]) -> tuple[httpx.Response, list[bytes]]:
    """The answer to a streamed payload, and what the handler writes for the same one, item by item."""
    response = await post(handler, engine, body | {"stream": True})
    items = []
    answer = await handler.handle(InferenceRequest(json.dumps(body | {"stream": True}).encode(), {}, "id-1"))
    assert not isinstance(answer.body, bytes)
    try:
        async with aclosing(answer.body) as chunks:
            async for item in chunks:
                items.append(item)
    except (PayloadError, EngineError):
        pass
    return response, items


@pytest.mark.parametrize("keyword", ["", "async "])
async def test_stream_unchanged(tmp_path: Path, echo: EchoEngine, keyword: str) -> None:
    """G60: every event as vLLM sends it, `[DONE]` included, a newline behind each, and one alone at the end."""
    handler = default(echo, loaded(tmp_path, f"@output_formatter\n{keyword}def f(c): return c"))
    response, items = await streamed(handler, echo, HI)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/jsonlines")
    lines = [line for line in response.text.split("\n") if line]
    assert [line.startswith("data: ") for line in lines] == [True] * 5
    first = json.loads(lines[0].removeprefix("data: "))
    assert (first["object"], first["choices"][0]["text"]) == ("text_completion", "D")
    assert items[-2:] == [b"data: [DONE]\n\n\n", b"\n"]
    assert [item[-3:] for item in items[:-1]] == [b"\n\n\n"] * 5
    assert echo.num_in_flight == 0


STREAMS = {
    "dicts": (
        "return {'t': json.loads(c[6:])['choices'][0]['text']} if 'DONE' not in c else {'end': True}",
        HI,
        [b'{"t": "D"}\n', b'{"t": ":"}\n', b'{"t": "h"}\n', b'{"t": "i"}\n', b'{"end": true}\n', b"\n"],
    ),
    "nothing to send": (
        "return 'x' if '\"h\"' in c else None",
        HI,
        [b"x\n", b"\n"],
    ),
    "nothing at all": ("return None", HI, [b"\n"]),
    "chat": (
        "return json.loads(c[6:])['choices'][0]['delta'].get('content') or None if 'DONE' not in c else None",
        CHAT,
        [b"D\n", b":\n", b"h\n", b"i\n", b"\n"],
    ),
}


@pytest.mark.parametrize(("source", "body", "items"), STREAMS.values(), ids=STREAMS)
async def test_stream(tmp_path: Path, echo: EchoEngine, source: str, body: dict[str, Any], items: list[bytes]) -> None:
    handler = default(echo, loaded(tmp_path, f"import json\n@output_formatter\ndef f(c): {source}"))
    response, written = await streamed(handler, echo, body)
    assert (response.status_code, written) == (200, items)
    assert response.content == b"".join(items)


@pytest.mark.parametrize("made", ["5", "b''"])
async def test_stream_that_fails_at_once(tmp_path: Path, echo: EchoEngine, made: str) -> None:
    """G61, and a wrong type."""
    handler = default(echo, loaded(tmp_path, f"@output_formatter\ndef f(c): return {made}"))
    response = await asyncio.wait_for(post(handler, echo, HI | {"stream": True}), 30)
    assert (response.status_code, response.headers["content-type"]) == (424, "application/json")
    assert response.json()["error"].startswith(FAILED.format("output") + "TypeError: f returned ")
    assert echo.num_in_flight == 0


async def test_stream_that_fails_later(tmp_path: Path, echo: EchoEngine) -> None:
    source = """
@output_formatter
def f(c):
    if '"h"' in c: raise ValueError("x")
    return "ok"
"""
    response, items = await streamed(default(echo, loaded(tmp_path, source)), echo, HI)
    assert (response.status_code, items) == (200, [b"ok\n", b"ok\n"])
    *before, last = response.text.splitlines()
    assert (before, json.loads(last)) == (
        ["ok", "ok"],
        {"error": FAILED.format("output") + "ValueError: x", "code": 424},
    )
    assert echo.num_in_flight == 0


async def test_engine_that_fails_in_a_stream(tmp_path: Path, echo: EchoEngine) -> None:
    echo.failure, echo.fail_after = EngineError("broken"), 2
    response, _ = await streamed(default(echo, loaded(tmp_path, "@output_formatter\ndef f(c): return 'ok'")), echo, HI)
    assert response.text == 'ok\nok\n{"error": "broken", "code": 500}\n'


async def test_client_that_leaves_a_stream(tmp_path: Path, echo: EchoEngine) -> None:
    handler = default(echo, loaded(tmp_path, "@output_formatter\ndef f(c): return c"))
    answer = await handler.handle(InferenceRequest(b'{"inputs": "hi", "stream": true}', {}, "id-1"))
    assert not isinstance(answer.body, bytes)
    await anext(answer.body)
    assert echo.num_in_flight == 1
    await answer.body.aclose()
    assert echo.num_in_flight == 0


SLOW = """
import threading, time
seen = []
@{mark}
{keyword}def {name}(given):
    seen.append(threading.current_thread() is threading.main_thread())
    {body}
"""


async def test_blocking_formatters_do_not_stall(tmp_path: Path, echo: EchoEngine) -> None:
    source = "import time\n@input_formatter\ndef f(p):\n    time.sleep(1)\n    return p\n"
    source += "@output_formatter\ndef g(r):\n    time.sleep(1)\n    return {}\n"
    task = asyncio.create_task(post(default(echo, loaded(tmp_path, source)), echo, HI))
    longest, before = 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.001)
        longest, before = max(longest, time.monotonic() - before), time.monotonic()
    assert (await task).status_code == 200
    assert longest < 0.8


async def test_slow_formatter_of_chunks_moves_to_a_thread(
    tmp_path: Path, echo: EchoEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "handlers.user_formatters")
    body = "time.sleep(0.02 if len(seen) == 2 else 0)\n    return str(seen[-1])"
    source = SLOW.format(mark="output_formatter", keyword="", name="slow_one", body=body)
    handler = default(echo, loaded(tmp_path, source))
    first = (await post(handler, echo, HI | {"stream": True})).text.split()
    second = (await post(handler, echo, HI | {"stream": True})).text.split()
    assert (first, second) == (["True", "True", "False", "False", "False"], ["False"] * 5)
    (record,) = caplog.records
    assert record.getMessage().startswith("output formatter slow_one took ")
    assert record.getMessage().endswith(" ms for one chunk; it runs in a thread from now on")


async def test_both_share_the_module(tmp_path: Path, echo: EchoEngine) -> None:
    """G62, and the file is executed once (G52)."""
    source = f"""
import os
with open({str(tmp_path / "pids")!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
S = {{}}
@input_formatter
def f(p):
    S["t"] = 1
    return p
@output_formatter
def g(r): return {{"t": S.get("t")}}
"""
    handler = default(echo, loaded(tmp_path, source))
    assert [(await post(handler, echo, HI)).json() for _ in range(3)] == [{"t": 1}] * 3
    assert len((tmp_path / "pids").read_text().splitlines()) == 1


def test_siblings(tmp_path: Path) -> None:
    """G53b; what is installed hides what lies beside the model."""
    (tmp_path / "helper.py").write_text("V = 1")
    (tmp_path / "yaml.py").write_text("raise ImportError('the wrong one')")
    source = """
import helper, yaml
from . import helper as other
assert (helper.V, other.V) == (1, 1)
@input_formatter
def f(p): return p
"""
    assert not loaded(tmp_path, source).is_empty
    assert sys.path[-1] == str(tmp_path)


def test_nothing_to_load(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    source = f"open({str(marker)!r}, 'w').close()\nasync def handle(inputs): return None"
    path = tmp_path / "model.py"
    path.write_text(source)
    assert UserFormatters.load(user_code.read(path)).is_empty
    assert UserFormatters.load(None).is_empty
    assert not marker.exists()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import not_there_xyz", "ModuleNotFoundError: No module named 'not_there_xyz'"),
        ("raise ValueError('top')", "ValueError: top"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("def f(:", "SyntaxError: invalid syntax (model.py, line 11)"),
    ],
)
def test_file_that_does_not_load(tmp_path: Path, source: str, text: str) -> None:
    """G50: whoever starts the server decides; nothing stays behind."""
    modules = set(sys.modules)
    with pytest.raises(FormatterLoadError) as raised:
        loaded(tmp_path, f"@input_formatter\ndef g(p): return p\n{source}")
    assert str(raised.value) == text
    assert type(raised.value.__cause__).__name__ == text.split(":")[0]
    assert set(sys.modules) == modules


ADAPTER = "@input_formatter\ndef f(p): return {'inputs': 'A:' + p['inputs']}"
BASE = "@output_formatter\ndef f(r): return {'base': r.choices[0].text}"


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({}, {HEADER: "a1"}, {"base": "D:A:hi"}),
        ({}, {}, {"base": "D:hi"}),
        ({"adapters": "a1"}, {}, {"base": "D:A:hi"}),
        ({"model": "a1"}, {}, {"base": "D:A:hi"}),
        ({"adapters": "a-b"}, {}, {"base": "D:hi"}),
    ],
)
async def test_adapter(
    tmp_path: Path, echo: EchoEngine, body: dict[str, Any], headers: dict[str, str], expected: dict[str, str]
) -> None:
    """G65."""
    formatters = loaded(tmp_path, BASE)
    write(tmp_path / "a1", ADAPTER)
    assert formatters.add_adapter("a1", tmp_path / "a1")
    response = await post(default(echo, formatters), echo, HI | body, **headers)
    assert (response.status_code, response.json()) == (200, expected)
    named = body.get("adapters") or body.get("model") or headers.get(HEADER)
    assert [request.body.get("model") for request in echo.bodies] == [named]


async def test_unknown_adapter_is_refused_before_any_formatter(tmp_path: Path, echo: EchoEngine) -> None:
    handler = default(echo, loaded(tmp_path, "@input_formatter\ndef f(p): raise ValueError"))
    response = await post(handler, echo, HI, **{HEADER: "zz"})
    assert response.status_code == 424
    assert response.json()["error"].startswith("Input parsing failed: LoRA adapter zz not found in registry.")


async def test_adapter_in_rolling_batch(tmp_path: Path, echo: EchoEngine) -> None:
    """There a model's name chooses no adapter, so no formatter either."""
    formatters = UserFormatters()
    write(tmp_path, ADAPTER)
    formatters.add_adapter("a1", tmp_path)
    handler = rolling(echo, formatters)
    answers = [await post(handler, echo, HI | body) for body in ({"adapters": "a1"}, {"model": "a1"}, {})]
    assert [answer.json()["generated_text"] for answer in answers] == ["D:A:hi", "D:hi", "D:hi"]
    assert [request.model for request in echo.requests] == ["a1", None, None]


async def test_adapters_come_and_go(tmp_path: Path, echo: EchoEngine) -> None:
    formatters, before = UserFormatters(), set(sys.modules)
    (tmp_path / "plain").mkdir()
    write(tmp_path / "useless", "x = 1")
    for name in ("a-b", "a.b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"N = {name!r}")
        write(tmp_path / name, "from .helper import N\n@input_formatter\ndef f(p): return {'inputs': N}")
    added = [formatters.add_adapter(name, tmp_path / name) for name in ("plain", "useless")]
    assert (added, formatters.is_empty) == ([False, True], True)
    for name in ("a-b", "a.b"):
        assert formatters.add_adapter(name, tmp_path / name)
    handler = default(echo, formatters)
    answers = [(await post(handler, echo, HI | {"adapters": name})).json() for name in ("a-b", "a.b", "a1")]
    assert [answer["generated_text"] for answer in answers] == ["D:a-b", "D:a.b", "D:hi"]
    formatters.remove_adapter("a-b")
    formatters.remove_adapter("never there")
    assert (await post(handler, echo, HI | {"adapters": "a-b"})).json() == {"generated_text": "D:hi"}
    formatters.remove_adapter("a.b")
    assert formatters.is_empty
    assert not [name for name in set(sys.modules) - before if name.startswith("_lmi_formatters_")]


async def test_adapter_that_does_not_load(tmp_path: Path, echo: EchoEngine) -> None:
    """G66; the formatters it had before stay."""
    formatters = UserFormatters()
    write(tmp_path / "good", ADAPTER)
    write(tmp_path / "bad", "def f(:")
    formatters.add_adapter("a1", tmp_path / "good")
    with pytest.raises(PayloadError) as raised:
        formatters.add_adapter("a1", tmp_path / "bad")
    assert str(raised.value) == (
        "Failed to load custom code for adapter a1: SyntaxError: invalid syntax (model.py, line 9)"
    )
    response = await post(default(echo, formatters), echo, HI | {"adapters": "a1"})
    assert response.json() == {"generated_text": "D:A:hi"}


LONE = """
def input_fn(body, kind): return {"inputs": f"{kind} {body.decode()}"}
"""


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        ({"content-type": "application/x-own"}, b"hi", "application/x-own hi"),
        ({"content-type": "application/json"}, b"{", "application/json {"),
        ({"content-type": "application/json"}, b"4", "application/json 4"),
        ({}, b"hi", "application/json hi"),
    ],
)
async def test_lone_input_fn(tmp_path: Path, echo: EchoEngine, headers: dict[str, str], body: bytes, text: str) -> None:
    response = await post(default(echo, loaded(tmp_path, LONE)), echo, body, **headers)
    assert response.json() == {"generated_text": f"D:{text}"}


async def test_lone_input_fn_and_adapters(tmp_path: Path, echo: EchoEngine) -> None:
    """What it returns may name an adapter, as a body may; an adapter's formatter comes before it."""
    source = "def input_fn(body, kind): return {'inputs': body.decode(), 'adapters': 'a-b'}"
    formatters = loaded(tmp_path, source)
    write(tmp_path / "a1", ADAPTER)
    formatters.add_adapter("a1", tmp_path / "a1")
    handler = default(echo, formatters)
    assert (await post(handler, echo, b"hi")).json() == {"generated_text": "D:hi"}
    assert (await post(handler, echo, HI, **{HEADER: "a1"})).json() == {"generated_text": "D:A:hi"}
    assert (await post(handler, echo, b"{", **{HEADER: "a1"})).status_code == 424
    assert [request.model for request in echo.requests] == ["a-b", "a1"]


@pytest.mark.parametrize(
    ("accept", "media_type", "text"),
    [
        ("*/*", "application/json", '{"t": "D:hi", "a": "application/json"}\n'),
        ("", "application/json", '{"t": "D:hi", "a": "application/json"}\n'),
        ("text/x-own", "text/x-own", '{"t": "D:hi", "a": "text/x-own"}\n'),
        ("text/x-own;q=0.5, */*", "text/x-own", '{"t": "D:hi", "a": "text/x-own"}\n'),
        ("text/bytes", "text/bytes", "D:hi\n"),
    ],
)
async def test_lone_output_fn(tmp_path: Path, echo: EchoEngine, accept: str, media_type: str, text: str) -> None:
    """G70b, by position."""
    source = """
def output_fn(first, second):
    text = first.choices[0].text
    return text.encode() if second == "text/bytes" else {"t": text, "a": second}
"""
    response = await post(default(echo, loaded(tmp_path, source)), echo, HI, accept=accept)
    assert (response.headers["content-type"], response.text) == (media_type, text)


async def test_lone_output_fn_in_a_stream(tmp_path: Path, echo: EchoEngine) -> None:
    handler = default(echo, loaded(tmp_path, "def output_fn(c, accept): return f'{accept} {c[:5]}'"))
    response = await post(handler, echo, HI | {"stream": True})
    assert response.headers["content-type"] == "application/jsonlines"
    assert response.text == "application/json data:\n" * 5 + "\n"


async def test_marks_win_over_names(tmp_path: Path, echo: EchoEngine) -> None:
    source = "def output_fn(r, accept): return {'lone': 1}\n@input_formatter\ndef f(p): return {'inputs': 'm'}"
    response = await post(default(echo, loaded(tmp_path, source)), echo, HI)
    assert response.json() == {"generated_text": "D:m"}


async def test_embedding_has_input_formatters(tmp_path: Path, echo: EchoEngine) -> None:
    formatters = loaded(tmp_path, "@input_formatter\ndef f(p): return {'inputs': p['texts']}")
    response = await post(EmbeddingHandler(echo, formatters), echo, {"texts": ["abc"]})
    assert response.json() == [[3.0, 0.5]]


def test_body_for_vllm() -> None:
    """LMI's words in those of vLLM's completion request."""
    fields = {"max_tokens": 10**9, "logprobs": 1, "prompt_logprobs": 1}

    def body(*prompts: str | list[int], full: bool = False, **given: Any) -> dict[str, Any]:
        requests = [GenerationRequest(prompt, fields, **given) for prompt in prompts]
        return dict(generation.as_completion(LmiRequest(requests, return_full_text=full), 512).body)

    plain = {"max_tokens": 512, "logprobs": 1, "prompt_logprobs": 1, "stream": False}
    streamed = {"max_tokens": 512, "logprobs": 1, "stream": True}
    assert body("a") == plain | {"prompt": "a"}
    assert body("a", "b", model="a1") == plain | {"prompt": ["a", "b"], "model": "a1"}
    assert body("a", full=True) == plain | {"prompt": "a", "echo": True}
    assert body([5, 6], full=True) == plain | {"prompt": [5, 6]}
    assert body("a", full=True, stream=True) == streamed | {"prompt": "a"}
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    neutral |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert body("a", use_generation_config=False) == neutral | plain | {"prompt": "a"}


def test_dict_access() -> None:
    """On top of the object's own class, at every level, whatever was there stays."""
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    answer = Answer(id="1", object="o", model="m", choices=[Choice(index=0, text="t")], usage=usage)
    before = answer.model_dump_json()
    made: Any = with_dict_access(with_dict_access(answer))
    assert made is answer
    assert isinstance(made, Answer)
    assert (type(made).__name__, made.model_dump_json(), made.usage) == ("Answer", before, usage)
    assert (made["choices"][0]["text"], made.choices[0].text, made["usage"]["total_tokens"]) == ("t", "t", 3)
    assert ("choices" in made, "x" in made, made.get("x"), made.get("model")) == (True, False, None, "m")
    assert list(made.keys()) == list(dict(made.items())) == list(Answer.model_fields)
    assert len(made.values()) == len(Answer.model_fields)
    with pytest.raises(KeyError):
        made["x"]
    other = with_dict_access(answer.model_copy(deep=True))
    assert type(other) is type(made)


async def test_without_formatters_the_engine_is_asked_as_before(echo: EchoEngine) -> None:
    handler = default(echo, UserFormatters())
    assert (await post(handler, echo, HI)).text == '{"generated_text": "D:hi"}\n'
    lines = (await post(handler, echo, HI | {"stream": True})).text.splitlines()
    assert [json.loads(line)["token"]["text"] for line in lines if line] == list("D:hi")
    assert (len(echo.requests), echo.bodies, echo.calls) == (2, [], 2)
    answer = await post(handler, echo, {"prompt": ["a", "b"]})
    assert [choice["text"] for choice in answer.json()["choices"]] == ["D:a", "D:b"]
    lines = (await post(handler, echo, CHAT | {"stream": True})).text.splitlines()
    assert "".join(json.loads(line)["choices"][0]["delta"]["content"] for line in lines if line) == "D:hi"
