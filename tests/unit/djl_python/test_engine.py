# SPDX-License-Identifier: Apache-2.0
"""The server's engine from inside a handler, over a bridge that answers by script."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from djl_python import _bridge, engine
from djl_python._bridge import Response
from djl_python.engine import EngineError
from djl_python.lmi_vllm import vllm_async_service
from djl_python.lmi_vllm.vllm_async_service import VLLMHandler
from djl_python.outputs import decode_frame
from tests.unit.djl_python.test_inputs import request

pytestmark = pytest.mark.pure


class FakeBridge:
    """Answers with these chunks, and remembers what it was asked and whether its answer was closed early."""

    def __init__(self, *chunks: bytes, status: int = 200, content_type: str = "application/json"):
        self.chunks = chunks
        self.status = status
        self.headers = {"content-type": content_type, "content-length": "5", "x-own": "1"}
        self.asked: list[tuple[Any, dict[str, str]]] = []
        self.closed = 0

    async def request(self, body: bytes, headers: dict[str, str]) -> Response:
        self.asked.append((json.loads(body), headers))
        return Response(self.status, self.headers, self._answer())

    async def _answer(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self.chunks:
                await asyncio.sleep(0)
                yield chunk
        finally:
            self.closed += 1


@pytest.fixture(autouse=True)
def disconnected() -> Iterator[None]:
    yield
    _bridge.connect(None, None)


def connected(*chunks: bytes, **how: Any) -> FakeBridge:
    bridge = FakeBridge(*chunks, **how)
    _bridge.connect(bridge, asyncio.get_running_loop())
    return bridge


async def test_generate() -> None:
    bridge = connected(b'{"generated_', b'text": "x"}\n')
    payload = {"inputs": "ä", "stream": True}
    assert await engine.generate(payload) == {"generated_text": "x"}
    assert await engine.generate({"inputs": "y"}, adapter="a1") == {"generated_text": "x"}
    plain = {"content-type": "application/json"}
    assert bridge.asked == [
        ({"inputs": "ä", "stream": False}, plain),
        ({"inputs": "y"}, plain | {"x-amzn-sagemaker-adapter-identifier": "a1"}),
    ]
    assert payload == {"inputs": "ä", "stream": True}


@pytest.mark.parametrize(
    ("chunks", "objects"),
    [
        ((b'{"a": 1}\n{"a"', b': 2}\n\n{"a": 3}'), [{"a": 1}, {"a": 2}, {"a": 3}]),
        ((b'data: {"a": 1}\n\n', b"data:[DONE]\n\n"), [{"a": 1}]),
        ((b'{"error": "kept", "token": {}}\n',), [{"error": "kept", "token": {}}]),
        ((), []),
    ],
)
async def test_stream(chunks: tuple[bytes, ...], objects: list) -> None:
    bridge = connected(*chunks)
    payload = {"inputs": "x"}
    assert [one async for one in engine.stream(payload, "a1")] == objects
    assert bridge.asked[0][0] == {"inputs": "x", "stream": True}
    assert bridge.asked[0][1]["x-amzn-sagemaker-adapter-identifier"] == "a1"
    assert payload == {"inputs": "x"}
    assert bridge.closed == 1


async def test_a_stream_that_is_left_early_is_closed() -> None:
    bridge = connected(b'{"a": 1}\n', b'{"a": 2}\n')
    chunks = engine.stream({})
    assert await anext(chunks) == {"a": 1}
    await chunks.aclose()
    assert bridge.closed == 1


@pytest.mark.parametrize(
    ("status", "body", "code", "text"),
    [
        (424, b'{"code": 424, "error": "bad field"}', 424, "bad field"),
        (503, b'{"code": 503, "type": "T", "message": "full"}', 503, "full"),
        (400, b'{"error": {"message": "nested", "code": 499}}', 400, "nested"),
        (500, b"oops", 500, "oops"),
        (502, b"", 502, "the engine answered with status 502"),
    ],
)
async def test_refusals(status: int, body: bytes, code: int, text: str) -> None:
    connected(body, status=status)
    for ask in (engine.generate({}), anext(engine.stream({}))):
        with pytest.raises(EngineError) as caught:
            await ask
        assert (caught.value.code, caught.value.message, str(caught.value)) == (code, text, text)


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (b'{"error": "died", "code": 500}', 500, "died"),
        (b'{"error": {"message": "late", "type": "T", "code": 504}}', 504, "late"),
        (b'{"error": "no code"}\n', 424, "no code"),
    ],
)
async def test_a_stream_that_fails(line: bytes, code: int, text: str) -> None:
    connected(b'{"a": 1}\n', line)
    answer = engine.stream({})
    assert await anext(answer) == {"a": 1}
    with pytest.raises(EngineError) as caught:
        await anext(answer)
    assert (caught.value.code, caught.value.message) == (code, text)


async def test_from_a_thread() -> None:
    bridge = connected(b'{"a": 1}\n', b'{"a": 2}\n')
    assert await asyncio.to_thread(lambda: list(engine.stream_sync({"inputs": "x"}, "a1"))) == [{"a": 1}, {"a": 2}]
    connected(b'{"a": 1}')
    assert await asyncio.to_thread(engine.generate_sync, {"inputs": "x"}) == {"a": 1}
    assert bridge.asked[0][0] == {"inputs": "x", "stream": True}


async def test_errors_reach_a_thread() -> None:
    connected(b'{"error": "e"}', status=429)
    for ask in (lambda: engine.generate_sync({}), lambda: next(engine.stream_sync({}))):
        with pytest.raises(EngineError) as caught:
            await asyncio.to_thread(ask)
        assert (caught.value.code, caught.value.message) == (429, "e")


async def test_a_thread_that_leaves_early() -> None:
    bridge = connected(b'{"a": 1}\n', b'{"a": 2}\n')

    def first() -> Any:
        chunks = engine.stream_sync({})
        one = next(chunks)
        chunks.close()
        return one

    assert await asyncio.to_thread(first) == {"a": 1}
    assert bridge.closed == 1


async def test_not_on_the_loops_own_thread() -> None:
    bridge = connected(b'{"a": 1}\n', b'{"a": 2}\n')
    chunks = await asyncio.to_thread(engine.stream_sync, {})
    assert await asyncio.to_thread(next, chunks) == {"a": 1}
    chunks.close()
    while not bridge.closed:
        await asyncio.sleep(0)
    chunks = await asyncio.to_thread(engine.stream_sync, {})
    with pytest.raises(RuntimeError, match="would stop the event loop"):
        next(chunks)
    with pytest.raises(RuntimeError, match=r"`await engine\.generate\(\.\.\.\)`"):
        engine.generate_sync({})
    with pytest.raises(RuntimeError, match=r"`async for \.\.\. in engine\.stream\(\.\.\.\)`"):
        engine.stream_sync({})


async def test_outside_the_server() -> None:
    text = "reachable only from a handler that the server runs"
    with pytest.raises(RuntimeError, match=text):
        await engine.generate({})
    with pytest.raises(RuntimeError, match=text):
        await anext(engine.stream({}))
    with pytest.raises(RuntimeError, match=text):
        engine.generate_sync({})
    with pytest.raises(RuntimeError, match=text):
        engine.stream_sync({})


async def test_service_whole_answer() -> None:
    bridge = connected(b'{"generated_text": "', b'\xc3\xa4"}\n')
    inputs = request(b'{"inputs": "x"}', "application/json")
    inputs.properties.update({"x-amzn-sagemaker-adapter-identifier": "a1", "Other": "o"})
    output = await VLLMHandler().inference(inputs)
    assert output.properties == {"content-type": "application/json", "x-own": "1"}
    assert output.content.value_at(0).pairs == {"data": '{"generated_text": "ä"}\n', "last": True}
    headers = {"content-type": "application/json", "x-amzn-sagemaker-adapter-identifier": "a1"}
    assert bridge.asked == [({"inputs": "x"}, headers)]


async def test_service_adapter_of_the_query() -> None:
    bridge = connected(b"{}")
    inputs = request(b"a1", key="adapter")
    inputs.content.add("data", b'{"inputs": "x"}')
    await VLLMHandler().inference(inputs)
    assert bridge.asked == [({"inputs": "x"}, {"x-amzn-sagemaker-adapter-identifier": "a1"})]


async def test_service_stream() -> None:
    """The bytes pass through unchanged, also where a chunk ends inside a character."""
    whole = '{"t": "ä"}\n{"t": "b"}\n'.encode()
    bridge = connected(whole[:8], whole[8:12], whole[12:], content_type="application/jsonlines")
    outputs = [one async for one in await VLLMHandler().inference(request(b"{}"))]
    frames = [decode_frame(bytes(one.content.value_at(0))) for one in outputs]
    assert "".join(one["data"] for one in frames).encode() == whole
    assert [one["last"] for one in frames] == ["False", "False", "False", "True"]
    assert outputs[0].properties == {"content-type": "application/jsonlines", "x-own": "1"}
    assert bridge.closed == 1


async def test_service_refusal() -> None:
    connected(b'{"code": 424, "error": "bad"}', status=424)
    output = await VLLMHandler().inference(request(b"{}"))
    assert (output.code, output.content.values) == (424, [b'{"code": 424, "error": "bad"}'])


async def test_service_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_async_service, "service", VLLMHandler())
    connected(b"{}")
    start = vllm_async_service.Input()
    start.properties["model_id"] = "m"
    assert await vllm_async_service.handle(start) is None
    assert vllm_async_service.service.initialized
    assert vllm_async_service.service.properties == {"model_id": "m"}
    answer = await vllm_async_service.handle(request(b"{}"))
    assert answer.content.value_at(0).pairs["data"] == "{}"


@pytest.mark.parametrize("hook", ["register_adapter", "update_adapter", "unregister_adapter"])
async def test_service_adapters(hook: str) -> None:
    with pytest.raises(RuntimeError, match="The server itself manages its adapters"):
        await getattr(vllm_async_service, hook)(request(b""))
