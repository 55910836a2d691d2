# SPDX-License-Identifier: Apache-2.0
"""Twenty adapters over four slots: called, registered, updated, pinned and removed at the same time."""

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from serving import demo
from tests.e2e.process import LmiProcess

pytestmark = pytest.mark.long
NUM_ADAPTERS, NUM_CALLS, NUM_CLIENTS = 20, 2000, 8
QUESTION = "What is LoRA?"
KINDS = demo.adapter_names()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name to directory; every adapter has its files for itself."""
    root = tmp_path_factory.mktemp("sources")
    names = [f"a{number:02d}" for number in range(NUM_ADAPTERS)]
    for number, name in enumerate(names):
        shutil.copytree(demo.ADAPTERS_DIR / KINDS[number % len(KINDS)], root / name)
    return {name: root / name for name in names}


@pytest.fixture(scope="module")
def server(sources: dict[str, Path]) -> Iterator[LmiProcess]:
    env = {"OPTION_MAX_LORAS": "4", "OPTION_ADAPTER_ROOTS": str(next(iter(sources.values())).parent)}
    with LmiProcess(["--demo", "--port", "0"], env) as process:
        yield process


def answer_of(name: str | None) -> str:
    """The sentence that an adapter, or the base model, was trained to say."""
    return demo.answers(KINDS[int(name[1:]) % len(KINDS)] if name else None)[QUESTION]


def memory_bytes(server: LmiProcess) -> int:
    processes = [psutil.Process(pid) for pid in (server.process.pid, *server.children())]
    return sum(process.memory_info().rss for process in processes)


def ask(client: httpx.Client, url: str, name: str | None) -> str:
    """How one call ended: `right`, `gone` for an adapter that is not there, or what went wrong."""
    body = {"inputs": QUESTION, "parameters": {"max_new_tokens": 40}} | ({"adapters": name} if name else {})
    answer = client.post(f"{url}/invocations", json=body)
    if answer.status_code == 200:
        text = answer.json()["generated_text"]
        return "right" if text == answer_of(name) else f"{name} said {text!r}"
    is_gone = name and answer.status_code == 424 and ("not found" in answer.text or "was unloaded" in answer.text)
    return "gone" if is_gone else f"{name}: {answer.status_code} {answer.text}"


def change(client: httpx.Client, url: str, name: str, src: Path, choose: random.Random) -> None:
    """One adapter's way out and in again."""
    assert client.delete(f"{url}/adapters/{name}").status_code == 200
    preload = choose.random() < 0.5
    query = {"name": name, "src": str(src), "preload": str(preload).lower()}
    assert client.post(f"{url}/adapters", params=query).status_code == 200
    if not preload and choose.random() < 0.5:
        assert client.post(f"{url}/adapters/{name}/update", params={"preload": "true"}).status_code == 200


def test_campaign(server: LmiProcess, sources: dict[str, Path]) -> None:
    """Every answer is that adapter's own sentence, and the base model's stay the base model's."""
    url, names = server.url, list(sources)
    with httpx.Client(timeout=60) as client:
        for name, src in sources.items():
            assert client.post(f"{url}/adapters", params={"name": name, "src": str(src)}).status_code == 200
        for name in [*names, None]:
            assert ask(client, url, name) == "right"
        assert client.post(f"{url}/adapters/a00/update", params={"pin": "true"}).status_code == 200
        cycle_bytes = memory_bytes(server)

    ends: Counter[str] = Counter()
    is_over = threading.Event()

    def call(seed: int) -> None:
        choose = random.Random(seed)
        with httpx.Client(timeout=60) as client:
            for _ in range(NUM_CALLS // NUM_CLIENTS):
                ends[ask(client, url, choose.choice([*names, None]))] += 1

    def changes() -> int:
        choose, count = random.Random(7), 0
        with httpx.Client(timeout=60) as client:
            while not is_over.is_set():
                name = choose.choice(names[1:])
                change(client, url, name, sources[name], choose)
                count += 1
                time.sleep(0.05)
        return count

    with ThreadPoolExecutor(NUM_CLIENTS + 1) as pool:
        changing = pool.submit(changes)
        for called in [pool.submit(call, seed) for seed in range(NUM_CLIENTS)]:
            called.result(600)
        is_over.set()
        num_changes = changing.result(120)
    assert set(ends) <= {"right", "gone"}, ends
    assert ends["right"] > NUM_CALLS * 0.8, ends
    assert num_changes > 50

    with httpx.Client(timeout=60) as client:
        for name in [*names, None]:
            assert ask(client, url, name) == "right"
        listed = [adapter["name"] for adapter in client.get(f"{url}/adapters").json()["adapters"]]
        served = [model["id"] for model in client.get(f"{url}/v1/models").json()["data"]]
    assert listed == sorted([*names, *KINDS])
    assert set(listed) <= set(served)
    assert memory_bytes(server) < cycle_bytes * 1.05
