# SPDX-License-Identifier: Apache-2.0
"""More load than the server takes, a thousand streams at once, clients that misbehave, and an engine that is killed.

Two servers: one that takes 20 requests, and one with the default limits. What is asserted are counts and texts.
"""

import asyncio
import http.client
import json
import os
import resource
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress

import httpx
import psutil
import pytest

from tests.e2e.process import LmiProcess, wait_for_metric
from tests.long.load import (
    KINDS,
    QUESTIONS,
    RUNNING,
    STREAMS,
    Kind,
    check_settled,
    objects,
    verdict,
    wait_until_in_flight,
)

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


def connection(server: LmiProcess, receive_bytes: int | None = None) -> http.client.HTTPConnection:
    """To the server, with a buffer of this size for what it sends."""
    host, port = server.url.removeprefix("http://").split(":")
    made = http.client.HTTPConnection(host, int(port), timeout=60)
    made.sock = socket.socket()
    if receive_bytes is not None:
        made.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.sock.settimeout(60)
    made.sock.connect((host, int(port)))
    return made


def test_slow_readers(server: LmiProcess) -> None:
    """Who reads seconds later, through the smallest buffer, misses nothing; nobody else waits for him."""
    num_tokens, num_readers = 1000, 8
    fields = {"ignore_eos": True, "logprobs": 5}
    long_kinds = [Kind("/invocations", "inputs", stream=True), Kind("/v1/completions", "prompt", stream=True)]

    def read_late(number: int) -> tuple[int, int]:
        kind = long_kinds[number % 2]
        with closing(connection(server, receive_bytes=1)) as made:
            body = json.dumps(kind.body("Tell", num_tokens, **fields))
            made.request("POST", kind.path, body, {"content-type": "application/json"})
            is_waiting.wait(60)
            time.sleep(3)
            # Wide enough to come to an end.
            made.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            text = made.getresponse().read()
        return num_tokens_of(text.decode()), len(text)

    is_waiting = threading.Event()
    with ThreadPoolExecutor(num_readers) as pool:
        readers = [pool.submit(read_late, number) for number in range(num_readers)]
        wait_until_in_flight(server.url, num_readers)
        is_waiting.set()
        answer = httpx.post(f"{server.url}/invocations", json=KINDS[0].body(QUESTIONS[0]), timeout=60)
        assert verdict(QUESTIONS[0], answer.status_code, answer.text) == "right"
        assert not any(reader.done() for reader in readers)
        ends = [reader.result(120) for reader in readers]
    print(f"each read late: {sorted(num_bytes for _, num_bytes in ends)} bytes")
    assert {num for num, _ in ends} == {num_tokens}
    check_settled(server.url)


def num_tokens_of(text: str) -> int:
    """Of a stream of LMI's, or of one of OpenAI's with log-probabilities."""
    values = objects(text)
    return sum(1 if "token" in value else len(value["choices"][0]["logprobs"]["tokens"]) for value in values)


def test_slow_writers(server: LmiProcess) -> None:
    """A body that comes byte by byte is answered like any other."""

    def write_slowly(number: int) -> str:
        kind, question = KINDS[number % len(KINDS)], QUESTIONS[number % len(QUESTIONS)]
        body = json.dumps(kind.body(question)).encode()
        with closing(connection(server)) as made:
            made.putrequest("POST", kind.path)
            made.putheader("content-type", "application/json")
            made.putheader("content-length", str(len(body)))
            made.endheaders()
            for byte in body:
                made.send(bytes([byte]))
                time.sleep(0.01)
            answer = made.getresponse()
            return verdict(question, answer.status, answer.read().decode())

    with ThreadPoolExecutor(20) as pool:
        assert Counter(pool.map(write_slowly, range(20))) == {"right": 20}
    check_settled(server.url)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_half_closed(server: LmiProcess, kind: Kind) -> None:
    """To uvicorn a client that says that it has no more to say is gone: the request ends in the engine, unanswered."""
    with closing(connection(server)) as made:
        made.request("POST", kind.path, json.dumps(kind.long_body()), {"content-type": "application/json"})
        wait_until_in_flight(server.url, 1, 5)
        assert made.sock is not None
        made.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(http.client.HTTPException):
            made.getresponse().read()
    check_settled(server.url)


NUM_CONNECTS, NUM_AT_ONCE = 10_000, 500
HEAD = b"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
BEGINNINGS = [
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"\0" * 5000,
    b"POST /invoc",
    HEAD,
    HEAD + b'content-length: 100\r\n\r\n{"inputs": ',
    HEAD + b'transfer-encoding: chunked\r\n\r\n9\r\n{"inputs"',
    HEAD + b"transfer-encoding: chunked\r\n\r\nnonsense",
    HEAD + b"x: " + b"x" * 100_000,
    b"GET /ping HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n{}",
]
"""Nothing, TLS, garbage, and requests that do not come to their end."""


async def begun(host: str, port: int, number: int) -> asyncio.StreamWriter:
    """A connection on which something begins."""
    _, writer = await asyncio.open_connection(host, port)
    with suppress(ConnectionError):
        writer.write(BEGINNINGS[number % len(BEGINNINGS)])
        await writer.drain()
    return writer


async def test_ten_thousand_connects(server: LmiProcess) -> None:
    """Who asks as he should is answered while they are open; afterwards no file is open that was not before."""
    process = psutil.Process(server.process.pid)
    host, port = server.url.removeprefix("http://").split(":")
    verdicts: Counter[str] = Counter()
    num_fds, most_fds = process.num_fds(), 0
    async with many_clients(server.url) as client:
        for begin in range(0, NUM_CONNECTS, NUM_AT_ONCE):
            numbers = range(begin, begin + NUM_AT_ONCE)
            writers = await asyncio.gather(*(begun(host, int(port), number) for number in numbers))
            for kind, question in zip(KINDS, QUESTIONS, strict=False):
                answer = await client.post(kind.path, json=kind.body(question))
                verdicts[verdict(question, answer.status_code, answer.text)] += 1
            most_fds = max(most_fds, process.num_fds())
            for number, writer in enumerate(writers):
                # With a reset, or with a goodbye.
                writer.transport.abort() if number % 2 else writer.close()
    print(f"{NUM_CONNECTS} connects, {dict(verdicts)}, files {num_fds}, at most {most_fds}")
    assert verdicts == {"right": min(len(KINDS), len(QUESTIONS)) * (NUM_CONNECTS // NUM_AT_ONCE)}
    assert most_fds > num_fds + NUM_AT_ONCE / 4
    await asyncio.to_thread(check_settled, server.url)
    deadline = time.monotonic() + 10
    while (left := process.num_fds()) > num_fds:
        assert time.monotonic() < deadline, f"{left} files are open, {num_fds} were"
        await asyncio.sleep(0.1)
