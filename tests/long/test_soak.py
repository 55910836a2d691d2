# SPDX-License-Identifier: Apache-2.0
"""Everything that clients do, for a while: five minutes, or `LMI_SOAK_S`; `make soak` takes an hour and records it.

Memory is what a process has for itself (USS), so that neither shared pages nor files that it maps count.
"""

import asyncio
import json
import os
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from serving import demo
from tests.conftest import commit
from tests.e2e.process import LmiProcess
from tests.long.load import KINDS, QUESTIONS, STREAMS, check_settled, said, verdict

pytestmark = pytest.mark.long
SOAK_S = float(os.environ.get("LMI_SOAK_S", "300"))
RECORD = os.environ.get("LMI_SOAK_RECORD")
"""A directory for `soak.json` and `soak.md`."""
WARM_UP = 0.3
"""Of the time: pools fill, every path is taken once, the allocator finds its size. Not measured."""
SAMPLE_S = 2.0
NUM_CLIENTS = 4
MOST_GROWTH = 0.01 if SOAK_S >= 3600 else 0.05
"""From the fitted begin of what is measured to its fitted end. At first the engine's allocator still grows
in steps of some megabytes, so a short run finds fast leaks only."""
ARGUMENTS = ["--demo", "--port", "0", "--kv-cache-memory-bytes", "32M"]
"""A cache for keys and values that is full before anything is measured: its pages come into being with their use."""
ENVIRONMENT = {"SERVING_MEMORY_CACHE_CAPACITY": "50"}
"""Results that are fetched later: as many as there can be are there long before anything is measured."""
LATER = [kind for kind in KINDS if kind.path.startswith(("/invocations", "/predictions"))]
BAD = [
    ("/invocations", "{", 424),
    ("/invocations", '{"inputs": 5}', 424),
    ("/invocations", '{"inputs": "a", "adapters": "nobody"}', 424),
    ("/predictions/nobody", '{"inputs": "a"}', 404),
    ("/predictions/demo", '{"messages": "a"}', 424),
    ("/generate", '{"inputs": ""}', 422),
    ("/generate_stream", '{"inputs": "a", "parameters": {"top_p": 7}}', 422),
    ("/v1/completions", '{"prompt": "a", "max_tokens": -1}', 400),
    ("/v1/chat/completions", "nonsense", 400),
    ("/v1/nowhere", "{}", 404),
]
ADAPTER_FIELDS = {"/": "adapter_id", "/generate": "adapter_id", "/generate_stream": "adapter_id"}


@dataclass(frozen=True)
class Sample:
    """What a moment looked like: bytes of each process, open files of the server's."""

    second: float
    server: int
    engine: int
    num_fds: int


class Client:
    """One client that does one thing after another.

    Attributes:
        ends: what it did and how that ended; `right` unless something was wrong.
    """

    def __init__(self, http: httpx.AsyncClient, number: int):
        self.ends: Counter[str] = Counter()
        self._http = http
        self._choose = random.Random(number)
        self._number = number
        self._num_adapters = 0

    async def run(self, until: float) -> None:
        """Goes on until that time."""
        deeds: dict[Callable[[], Awaitable[str]], int] = {
            self.ask: 55,
            self.ask_adapter: 20,
            self.fetch_later: 5,
            self.send_bad: 10,
            self.leave: 8,
            self.change: 2,
        }
        while time.monotonic() < until:
            (deed,) = self._choose.choices(list(deeds), list(deeds.values()))
            self.ends[f"{deed.__name__}: {await deed()}"] += 1

    async def ask(self) -> str:
        """Any kind, any question."""
        kind, question = self._choose.choice(KINDS), self._choose.choice(QUESTIONS)
        answer = await self._http.post(kind.path, json=kind.body(question))
        return verdict(question, answer.status_code, answer.text)

    async def fetch_later(self) -> str:
        """Any kind of LMI's, its answer page by page."""
        kind, question = self._choose.choice(LATER), self._choose.choice(QUESTIONS)
        answer = await self._http.post(kind.path, json=kind.body(question), headers={"x-synchronous": "false"})
        text = ""
        while token := answer.headers.get("x-next-token"):
            await asyncio.sleep(0.05)
            answer = await self._http.post(kind.path, headers={"x-starting-token": token, "x-max-items": "5"})
            text += answer.text
        return verdict(question, answer.status_code, text)

    async def ask_adapter(self) -> str:
        """The same of an adapter that is always there."""
        return await self._ask_adapter(self._choose.choice(demo.adapter_names()), None)

    async def _ask_adapter(self, name: str, adapter: str | None) -> str:
        kind, question = self._choose.choice(KINDS), self._choose.choice(list(demo.answers(adapter or name)))
        body = kind.body(question)
        if field := ADAPTER_FIELDS.get(kind.path):
            body["parameters"][field] = name
        else:
            body["adapters" if kind.schema == "inputs" else "model"] = name
        answer = await self._http.post(kind.path, json=body)
        is_right = answer.status_code == 200 and said(answer.text) == demo.answers(adapter or name)[question]
        return "right" if is_right else f"{kind} {name} {question} {answer.status_code} {answer.text}"

    async def send_bad(self) -> str:
        """A body that is refused."""
        path, content, status = self._choose.choice(BAD)
        answer = await self._http.post(path, content=content, headers={"content-type": "application/json"})
        return "right" if answer.status_code == status else f"{path} {content} {answer.status_code} {answer.text}"

    async def leave(self) -> str:
        """In the middle of a long stream, or before a long answer."""
        kind = self._choose.choice(STREAMS if self._choose.random() < 0.7 else KINDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._choose.uniform(0.05, 0.5)):
                async with self._http.stream("POST", kind.path, json=kind.long_body()) as answer:
                    async for _ in answer.aiter_bytes():
                        pass
                return f"{kind} {answer.status_code} ended"
        return "right"

    async def change(self) -> str:
        """A new adapter comes, is asked, and goes."""
        self._num_adapters += 1
        name, like = f"soak-{self._number}-{self._num_adapters}", self._choose.choice(demo.adapter_names())
        query = {"name": name, "src": str(demo.ADAPTERS_DIR / like)}
        come = await self._http.post("/adapters", params=query)
        asked = await self._ask_adapter(name, like)
        gone = await self._http.delete(f"/adapters/{name}")
        statuses = (come.status_code, gone.status_code)
        return asked if statuses == (200, 200) else f"{statuses} {come.text} {gone.text}"


@pytest.fixture(scope="module")
def server() -> Iterator[LmiProcess]:
    with LmiProcess(ARGUMENTS, ENVIRONMENT) as process:
        yield process


async def sample(server: LmiProcess, until: float) -> list[Sample]:
    """What the processes have, every two seconds."""
    ours, engine = psutil.Process(server.process.pid), psutil.Process(server.wait_engine_pid())
    samples, began = [], time.monotonic()
    while time.monotonic() < until:
        sizes = [await asyncio.to_thread(lambda one=one: one.memory_full_info().uss) for one in (ours, engine)]
        samples.append(Sample(round(time.monotonic() - began, 1), *sizes, ours.num_fds()))
        await asyncio.sleep(SAMPLE_S)
    return samples


def growth(samples: list[Sample], name: str) -> float:
    """From the begin of the line through all values to its end, as a part of the begin."""
    seconds = [one.second for one in samples]
    slope, begin = statistics.linear_regression(seconds, [getattr(one, name) for one in samples])
    return slope * (seconds[-1] - seconds[0]) / (begin + slope * seconds[0])


async def test_soak(server: LmiProcess) -> None:
    """No answer but the right one, no memory and no file kept, nothing unfinished."""
    process = psutil.Process(server.process.pid)
    limits = httpx.Limits(max_connections=NUM_CLIENTS)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:
        clients = [Client(http, number) for number in range(NUM_CLIENTS)]
        until = time.monotonic() + SOAK_S
        num_fds = process.num_fds()
        samples, *_ = await asyncio.gather(sample(server, until), *(client.run(until) for client in clients))
    ends = sum((client.ends for client in clients), Counter())
    measured = [one for one in samples if one.second > WARM_UP * SOAK_S]
    grown = {name: growth(measured, name) for name in ("server", "engine")}
    for name, value in grown.items():
        print(f"{name}: {getattr(measured[0], name) / 2**20:.1f} MiB, grew by {value:+.2%}")
    print(dict(ends), f"fds {num_fds} {measured[-1].num_fds}")
    if RECORD:
        write_record(Path(RECORD), ends, measured, grown)
    assert set(ends) == {
        f"{deed}: right" for deed in (*("ask", "ask_adapter", "fetch_later", "send_bad", "leave", "change"),)
    }
    assert max(grown.values()) < MOST_GROWTH
    await asyncio.to_thread(check_settled, server.url)
    assert process.num_fds() <= num_fds + 1


def write_record(directory: Path, ends: Counter[str], measured: list[Sample], grown: dict[str, float]) -> None:
    """The figures as JSON, and as a table to read."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    record = {
        "commit": commit(),
        "machine": machine,
        "seconds": SOAK_S,
        "ends": dict(ends),
        "growth": {name: round(value, 5) for name, value in grown.items()},
        "samples": [asdict(one) for one in measured[:: max(1, len(measured) // 200)]],
    }
    (directory / "soak.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    rows = [f"| {end} | {count:,} |" for end, count in sorted(ends.items())]
    sizes = [
        f"| {name} | {getattr(measured[0], name) / 2**20:.1f} | {getattr(measured[-1], name) / 2**20:.1f} "
        f"| {grown[name]:+.2%} |"
        for name in grown
    ]
    text = [
        "# Soak",
        "",
        f"Made by `make soak`: {SOAK_S / 60:.0f} minutes on {machine}, commit {commit()}.",
        f"{NUM_CLIENTS} clients at once, each doing one thing after another.",
        "",
        *("| what clients did | times |", "|---|---:|", *rows, ""),
        f"Memory that each process has for itself (USS), after the first {WARM_UP:.0%} of the time. The growth is that",
        "of the line that fits best:",
        "",
        *("| process | first (MiB) | last (MiB) | growth |", "|---|---:|---:|---:|", *sizes, ""),
    ]
    (directory / "soak.md").write_text("\n".join(text), encoding="utf-8")
