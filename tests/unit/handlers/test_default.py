# SPDX-License-Identifier: Apache-2.0
"""The default handler: which adapter a request means, batches of prompts, and what reaches the engine."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from handlers.base import InferenceRequest, InferenceResponse
from handlers.default import DefaultHandler
from serving.errors import AdapterNotFound, EngineDead, PayloadError
from serving.schemas.generation import GenerationChunk, GenerationRequest
from serving.schemas.output import Defaults
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure
HEADER = "x-amzn-sagemaker-adapter-identifier"


def handle(engine: FakeEngine, payload: dict[str, Any], **headers: str) -> Any:
    """The coroutine that answers this payload."""
    return DefaultHandler(engine, Defaults()).handle(InferenceRequest(json.dumps(payload).encode(), headers, "id-1"))


@pytest.mark.parametrize(
    ("header", "body", "adapter"),
    [
        (None, {}, None),
        ("a1", {}, "a1"),
        (None, {"adapters": "a1"}, "a1"),
        (None, {"adapters": ["a1"]}, "a1"),
        ("a2", {"adapters": "a1"}, "a2"),
        ("a2", {"model": "lmi"}, "a2"),
        (None, {"model": "a1"}, "a1"),
        (None, {"adapters": ""}, None),
        ("", {}, None),
        (None, {"adapters": None}, None),
    ],
)
async def test_adapter_of_a_request(
    engine: FakeEngine, header: str | None, body: dict[str, Any], adapter: str | None
) -> None:
    await handle(engine, {"inputs": "hi"} | body, **({} if header is None else {HEADER: header}))
    (request,) = engine.requests
    assert request.model == adapter
    assert "adapters" not in request.fields


@pytest.mark.parametrize("name", ["X-Amzn-SageMaker-Adapter-Identifier", HEADER, HEADER.upper()])
async def test_header_in_any_case(client: httpx.AsyncClient, engine: FakeEngine, name: str) -> None:
    response = await client.post("/invocations", headers={name: "a1"}, json={"inputs": "hi", "adapters": "a2"})
    assert response.status_code == 200
    assert [request.model for request in engine.requests] == ["a1"]


@pytest.mark.parametrize(
    ("headers", "body"), [({HEADER: "zz"}, {}), ({HEADER: "zz"}, {"adapters": "a1"}), ({}, {"adapters": ["zz"]})]
)
async def test_unknown_adapter(engine: FakeEngine, headers: dict[str, str], body: dict[str, Any]) -> None:
    with pytest.raises(AdapterNotFound) as raised:
        await handle(engine, {"inputs": "hi"} | body, **headers)
    assert str(raised.value) == (
        "Input parsing failed: LoRA adapter zz not found in registry. Available adapters: ['a1', 'a2']"
    )
    assert engine.requests == []


async def test_adapter_for_each_prompt(engine: FakeEngine) -> None:
    body = {"inputs": ["hello", "world", "hello", "world"], "adapters": ["a2", None, "a1", ""]}
    await handle(engine, body)
    assert [(request.prompt, request.model) for request in engine.requests] == [
        ("hello", "a2"), ("world", None), ("hello", "a1"), ("world", None)
    ]  # fmt: skip
    engine.requests.clear()
    await handle(engine, body | {"model": "a1"})
    assert [request.model for request in engine.requests] == ["a2", None, "a1", None]
    engine.requests.clear()
    await handle(engine, body, **{HEADER: "a1"})
    assert [request.model for request in engine.requests] == ["a1"] * 4


@pytest.mark.parametrize(
    ("inputs", "adapters", "text"),
    [
        ("hi", ["a1", "a2"], "2 adapters need as many prompts, as a list of inputs"),
        (["a", "b", "c"], ["a1", "a2"], "2 adapters need as many prompts, as a list of inputs"),
        ([1, 2], ["a1", "a2"], "2 adapters for 1 prompts"),
        (["a", "b"], ["a1", 5], "adapters must be names, or null for the base model"),
        (["a", "b"], ["a1", "zz"], "LoRA adapter zz not found in registry. Available adapters: ['a1', 'a2']"),
    ],
)
async def test_adapters_that_fit_no_prompts(engine: FakeEngine, inputs: object, adapters: object, text: str) -> None:
    with pytest.raises(PayloadError) as raised:
        await handle(engine, {"inputs": inputs, "adapters": adapters})
    assert str(raised.value) == f"Input parsing failed: {text}"
    assert engine.requests == []


@pytest.mark.parametrize("adapters", [[], 5, {"a": 1}, [5]])
async def test_adapters_that_name_no_single_one(engine: FakeEngine, adapters: object) -> None:
    with pytest.raises(PayloadError) as raised:
        await handle(engine, {"inputs": "hi", "adapters": adapters})
    assert str(raised.value) == "Input parsing failed: adapters must be the name of one adapter"


async def test_every_generation_carries_the_request_id(engine: FakeEngine) -> None:
    await handle(engine, {"inputs": ["hello", "world"]})
    assert [request.request_id for request in engine.requests] == ["id-1", "id-1"]


async def test_batch_is_answered_in_order(engine: FakeEngine) -> None:
    response: InferenceResponse = await handle(
        engine, {"inputs": ["world", "hello"], "parameters": {"max_new_tokens": 2}}
    )
    assert response.body == '[{"generated_text": "CH("}, {"generated_text": "\ufffd Licensee"}]\n'.encode()
    assert response.media_type == "application/json"


class OneFails(FakeEngine):
    """Fails on one prompt, is endlessly busy with every other."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        self.num_in_flight += 1
        try:
            await asyncio.sleep(0)
            if request.prompt == "bad":
                raise EngineDead
            await asyncio.sleep(3600)
            yield GenerationChunk(0, "", [], 0)
        finally:
            self.num_in_flight -= 1


async def test_failure_of_one_prompt_ends_the_batch() -> None:
    """The caller gets that error itself, and the other prompts are not generated to their end."""
    engine = OneFails()
    with pytest.raises(EngineDead):
        await asyncio.wait_for(handle(engine, {"inputs": ["good", "bad", "good"]}), 5)
    assert engine.num_in_flight == 0


async def test_cancelled_batch_leaves_nothing_behind() -> None:
    engine = OneFails()
    task = asyncio.create_task(handle(engine, {"inputs": ["good", "good"]}))
    while engine.num_in_flight < 2:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.num_in_flight == 0


async def test_stream_is_not_begun_before_it_is_read(engine: FakeEngine) -> None:
    response: InferenceResponse = await handle(engine, {"inputs": "hello", "stream": True})
    assert (engine.requests, response.media_type) == ([], "application/jsonlines")
    assert not isinstance(response.body, bytes)
    assert await anext(response.body)
    assert engine.num_in_flight == 1
    await response.body.aclose()
    assert engine.num_in_flight == 0
