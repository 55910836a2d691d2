# SPDX-License-Identifier: Apache-2.0
"""More load than the server takes, a thousand streams at once, clients that misbehave, and an engine that is killed.

Two servers: one that takes 20 requests, and one with the default limits. What is asserted are counts and texts.
"""

import asyncio
import os
import resource
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import httpx
import pytest

from tests.e2e.process import LmiProcess, wait_for_metric
from tests.long.load import KINDS, QUESTIONS, RUNNING, STREAMS, Kind, check_settled, verdict, wait_until_in_flight

pytestmark = pytest.mark.long
NUM_RUNNING, NUM_QUEUED = 10, 10
NUM_ADMITTED = NUM_RUNNING + NUM_QUEUED
OVERLOAD = 10 * NUM_ADMITTED
NUM_STREAMS = 1000
NUM_FILES = 20_000
REFUSALS = (503, 429)
"""The second is TGI's."""


@pytest.fixture(scope="module", autouse=True)
def files() -> Iterator[None]:
    """`ulimit -n` for a thousand connections at each end; the servers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = NUM_FILES if hard == resource.RLIM_INFINITY else min(hard, NUM_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def small(files: None) -> Iterator[LmiProcess]:
    """It runs ten requests and lets ten wait."""
    env = {"OPTION_MAX_ROLLING_BATCH_SIZE": str(NUM_RUNNING), "SERVING_JOB_QUEUE_SIZE": str(NUM_QUEUED)}
    with LmiProcess(["--demo", "--port", "0"], env) as process:
        yield process


@pytest.fixture(scope="module")
def server(files: None) -> Iterator[LmiProcess]:
    with LmiProcess(["--demo", "--port", "0"], {"SERVING_JOB_QUEUE_SIZE": str(NUM_STREAMS)}) as process:
        yield process


@asynccontextmanager
async def many_clients(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client that opens as many connections as there are requests."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        yield client


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still until the block ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def patient(client: httpx.AsyncClient, kind: Kind, question: str, refusals: Counter[str]) -> str:
    """Asks again after each refusal, when the server said to; the verdict on the answer."""
    while (answer := await client.post(kind.path, json=kind.body(question))).status_code in REFUSALS:
        assert "Worker queue capacity exceeded for model: demo" in answer.text
        refusals[f"{answer.status_code} retry-after {answer.headers.get('retry-after')}"] += 1
        await asyncio.sleep(int(answer.headers.get("retry-after", "1")))
    return verdict(question, answer.status_code, answer.text)


async def test_ten_times_too_much(small: LmiProcess) -> None:
    """All come at once, nine of ten are refused; who comes again as told is served, and every answer is right."""
    refusals: Counter[str] = Counter()
    asked = [(KINDS[number % len(KINDS)], QUESTIONS[number % len(QUESTIONS)]) for number in range(OVERLOAD)]
    async with many_clients(small.url) as client:
        with stopped(small.wait_engine_pid()):
            tasks = [asyncio.create_task(patient(client, kind, question, refusals)) for kind, question in asked]
            deadline = time.monotonic() + 60
            while sum(refusals.values()) < OVERLOAD - NUM_ADMITTED:
                assert time.monotonic() < deadline, refusals
                await asyncio.sleep(0.05)
        verdicts = Counter(await asyncio.gather(*tasks))
    assert verdicts == {"right": OVERLOAD}
    assert set(refusals) == {"503 retry-after 1", "429 retry-after 1"}, refusals
    print(f"{OVERLOAD} requests, {NUM_ADMITTED} at a time: {dict(refusals)}")
    await asyncio.to_thread(check_settled, small.url)


class LongRequest:
    """A request that keeps the engine busy, its client beside the test.

    Attributes:
        has_begun: the first part of an answer came.
    """

    def __init__(self, client: httpx.AsyncClient, kind: Kind):
        self.kind = kind
        self.has_begun = asyncio.Event()
        self._status, self._text = 0, ""
        self._task = asyncio.create_task(self._read(client))

    async def _read(self, client: httpx.AsyncClient) -> None:
        async with client.stream("POST", self.kind.path, json=self.kind.long_body()) as answer:
            self._status = answer.status_code
            async for text in answer.aiter_text():
                self._text += text
                self.has_begun.set()

    async def leave(self) -> None:
        """Closes the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def failure(self) -> str:
        """How its client heard of the engine's death: an answer, or a last line; or what it got instead."""
        await self._task
        if self._status == 500 and ("Engine Failure" in self._text or "EngineCore encountered" in self._text):
            return "answer"
        last = self._text.removesuffix("data: [DONE]\n\n").rstrip("\n").rpartition("\n")[2]
        is_told = self.kind.stream and self._status == 200 and '"error"' in last
        return "last line" if is_told else f"{self.kind}: {self._status} ... {self._text[-300:]}"


async def test_refusals_are_fast(small: LmiProcess) -> None:
    """Beside a full engine that computes, a lone client hears its refusal within 50 ms, in the median."""
    seconds = []
    async with many_clients(small.url) as client:
        held = [LongRequest(client, STREAMS[number % len(STREAMS)]) for number in range(NUM_ADMITTED)]
        await asyncio.to_thread(wait_until_in_flight, small.url, NUM_ADMITTED)
        async with httpx.AsyncClient(base_url=small.url, timeout=60) as prober:
            for kind in KINDS * 10:
                began = time.perf_counter()
                answer = await prober.post(kind.path, json=kind.body("Tell"))
                seconds.append(time.perf_counter() - began)
                assert answer.status_code in REFUSALS, (kind, answer.text)
        for request in held:
            await request.leave()
    print(f"refused within {statistics.median(seconds) * 1000:.1f} ms (median), {max(seconds) * 1000:.1f} ms (slowest)")
    assert statistics.median(seconds) < 0.05
    await asyncio.to_thread(check_settled, small.url)


async def until_unready(url: str) -> float:
    """Seconds until `/ping` is 500, or nobody listens any more."""
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=5) as client:
        with suppress(httpx.TransportError):
            while (status := (await client.get("/ping")).status_code) == 200:
                await asyncio.sleep(0.01)
            assert status == 500
    return time.monotonic() - began


async def test_engine_is_killed(small: LmiProcess) -> None:
    """Requests of every kind, half of them running and half waiting: all hear of it, and the server ends with 1."""
    async with many_clients(small.url) as client:
        running = [LongRequest(client, kind) for kind in KINDS]
        for request in running:
            if request.kind.stream:
                await asyncio.wait_for(request.has_begun.wait(), 20)
        await asyncio.to_thread(wait_for_metric, small.url, RUNNING, NUM_RUNNING, 5)
        waiting = [LongRequest(client, kind) for kind in KINDS]
        await asyncio.to_thread(wait_until_in_flight, small.url, NUM_ADMITTED, 5)
        os.kill(small.wait_engine_pid(), signal.SIGKILL)
        unready_s = await until_unready(small.url)
        ends = Counter([await request.failure() for request in [*running, *waiting]])
    print(f"{dict(ends)}, /ping after {unready_s:.2f} s")
    assert set(ends) == {"answer", "last line"}
    assert ends["last line"] >= len(STREAMS)
    assert unready_s < 1
    assert await asyncio.to_thread(small.wait) == 1
    assert small.left_behind() == []


async def test_thousand_streams(server: LmiProcess) -> None:
    """All are there before the engine begins with the first one; each comes to its end and says its own sentence."""
    asked = [(STREAMS[number % len(STREAMS)], QUESTIONS[number % len(QUESTIONS)]) for number in range(NUM_STREAMS)]

    async def ask(kind: Kind, question: str) -> str:
        answer = await client.post(kind.path, json=kind.body(question))
        return verdict(question, answer.status_code, answer.text)

    began = time.monotonic()
    async with many_clients(server.url) as client:
        with stopped(server.wait_engine_pid()):
            tasks = [asyncio.create_task(ask(kind, question)) for kind, question in asked]
            await asyncio.to_thread(wait_until_in_flight, server.url, NUM_STREAMS, 50)
        verdicts = Counter(await asyncio.gather(*tasks))
    assert verdicts == {"right": NUM_STREAMS}
    print(f"{NUM_STREAMS} streams at once in {time.monotonic() - began:.1f} s")
    await asyncio.to_thread(check_settled, server.url)
