# SPDX-License-Identifier: Apache-2.0
"""The gate counts what is in flight and closes the engine's generator, however the consumer ends."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from serving.engine.gate import EngineGate

pytestmark = pytest.mark.pure


class Client:
    """Stands for vLLM's client: two items, a flag for the close."""

    name = "client"

    def __init__(self) -> None:
        self.closed = False

    async def generate(self, prompt: str) -> AsyncGenerator[str]:
        try:
            yield prompt
            await asyncio.sleep(60)
            yield prompt
        finally:
            self.closed = True


async def test_counts_and_closes() -> None:
    client = Client()
    gate = EngineGate(client)
    outputs = gate.generate("x")
    assert gate.num_in_flight == 0
    assert await anext(outputs) == "x"
    assert gate.num_in_flight == 1
    await outputs.aclose()
    assert gate.num_in_flight == 0
    assert client.closed


async def test_cancelled_consumer() -> None:
    client = Client()
    gate = EngineGate(client)

    async def consume() -> None:
        async for _ in gate.generate("x"):
            pass

    task = asyncio.create_task(consume())
    while gate.num_in_flight == 0:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.num_in_flight == 0
    assert client.closed


def test_everything_else_is_the_clients() -> None:
    assert EngineGate(Client()).name == "client"
