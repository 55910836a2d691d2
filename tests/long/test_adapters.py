# SPDX-License-Identifier: Apache-2.0
"""Twenty adapters over four slots, changed while they are called; and bad ones beside a stream on a good one."""

import json
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from serving import demo
from tests.e2e.process import LmiProcess, metric

pytestmark = pytest.mark.long
NUM_ADAPTERS, NUM_CLIENTS = 20, 8
NAMES = [f"a{number:02d}" for number in range(NUM_ADAPTERS)]
PINNED = NAMES[0]
KINDS = demo.adapter_names()
QUESTIONS = list(demo.answers())
PARAMETERS = {"max_new_tokens": 40}


class Kinds:
    """Which sentences each adapter is to say, and said before: a call may begin before a change and end after it."""

    def __init__(self) -> None:
        self._of = {name: [KINDS[number % len(KINDS)]] for number, name in enumerate(NAMES)}

    def now(self, name: str | None) -> int:
        """How often it has changed."""
        return len(self._of[name]) if name else 0

    def change(self, name: str) -> str:
        """Its next kind, which may be the one that it has."""
        self._of[name].append(random.choice(KINDS))
        return self._of[name][-1]

    def answers(self, name: str | None, question: str, since: int) -> set[str]:
        """What it may say to a call that began when it had changed `since` times."""
        kinds: list[str | None] = [*self._of[name][since - 1 :]] if name else [None]
        return {demo.answers(kind)[question] for kind in kinds}


@pytest.fixture(scope="module", params=[4, 32], ids=["from-disk", "from-memory"])
def cached(request: pytest.FixtureRequest) -> int:
    """How many adapters the engine keeps in memory: as many as there are slots, or all of them."""
    return int(request.param)


@pytest.fixture(scope="module")
def sources(cached: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one directory for each adapter."""
    root = tmp_path_factory.mktemp("sources")
    for number, name in enumerate(NAMES):
        shutil.copytree(demo.ADAPTERS_DIR / KINDS[number % len(KINDS)], root / name)
    return root


@pytest.fixture(scope="module")
def server(cached: int, sources: Path) -> Iterator[LmiProcess]:
    env = {
        "OPTION_MAX_LORAS": "4",
        "OPTION_MAX_CPU_LORAS": str(cached),
        "OPTION_ADAPTER_ROOTS": str(sources),
        "VLLM_SERVER_DEV_MODE": "1",
    }
    with LmiProcess(["--demo", "--port", "0"], env) as process:
        yield process


def memory_bytes(server: LmiProcess) -> int:
    """Of all its processes, pages that they share counted once."""
    processes = [psutil.Process(pid) for pid in (server.process.pid, *server.children())]
    return sum(process.memory_full_info().pss for process in processes)


def gone(text: str) -> bool:
    """The adapter was not there at that moment."""
    return any(sign in text for sign in ("not found in registry", "was unloaded", "` does not exist."))


class Caller:
    """A client that calls adapters and judges the answers.

    Attributes:
        ends: how the calls ended: `right`, `gone` for an adapter that was not there, or what went wrong.
    """

    def __init__(self, url: str, kinds: Kinds, seed: int):
        self.ends: Counter[str] = Counter()
        self._client = httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
        self._kinds = kinds
        self._choose = random.Random(seed)

    def ask(self, names: list[str | None]) -> None:
        """One request with a prompt for each name."""
        since = [self._kinds.now(name) for name in names]
        questions = [self._choose.choice(QUESTIONS) for _ in names]
        body: dict[str, Any] = {"inputs": questions, "adapters": names, "parameters": PARAMETERS}
        if len(names) == 1:
            body = {"inputs": questions[0], "parameters": PARAMETERS} | ({"adapters": names[0]} if names[0] else {})
        answer = self._client.post("/invocations", json=body)
        if answer.status_code != 200:
            is_gone = any(names) and answer.status_code == 424 and gone(answer.text)
            self.ends["gone" if is_gone else f"{names}: {answer.status_code} {answer.text}"] += 1
            return
        texts = [one["generated_text"] for one in (answer.json() if len(names) > 1 else [answer.json()])]
        for name, question, begun, text in zip(names, questions, since, texts, strict=True):
            is_right = text in self._kinds.answers(name, question, begun)
            self.ends["right" if is_right else f"{name} said {text!r} to {question!r}"] += 1

    def ask_all(self) -> None:
        """Each adapter and the base model."""
        for name in [*NAMES, None]:
            self.ask([name])
        assert self.ends == {"right": NUM_ADAPTERS + 1}

    def ask_some(self, count: int) -> None:
        """Calls for one, and for several at once."""
        for _ in range(count):
            self.ask([self._choose.choice([*NAMES, None]) for _ in range(self._choose.choice([1, 1, 1, 4]))])


def change(client: httpx.Client, sources: Path, name: str, kinds: Kinds, choose: random.Random) -> None:
    """One adapter's way out and in again, perhaps with other files in the same directory."""
    assert client.delete(f"/adapters/{name}").status_code == 200
    if choose.random() < 0.5:
        kind = kinds.change(name)
        shutil.rmtree(sources / name)
        shutil.copytree(demo.ADAPTERS_DIR / kind, sources / name)
    preload = choose.random() < 0.5
    query = {"name": name, "src": name, "preload": str(preload).lower()}
    answer = client.post("/adapters", params=query)
    assert answer.status_code == 200, answer.text
    if not preload and choose.random() < 0.5:
        assert client.post(f"/adapters/{name}/update", params={"preload": "true"}).status_code == 200


def changes(url: str, sources: Path, kinds: Kinds, is_over: threading.Event) -> int:
    """Changes adapters, and pins one more for a while, until it is over; how many were changed."""
    choose, count = random.Random(7), 0
    with httpx.Client(base_url=url, timeout=60) as client:
        while not is_over.is_set():
            name = choose.choice(NAMES[1:])
            change(client, sources, name, kinds, choose)
            if count % 10 == 5:
                assert client.post(f"/adapters/{name}/update", params={"preload": "true"}).status_code == 200
                answer = client.post(f"/adapters/{name}/update", params={"pin": "true"})
                assert answer.status_code == 200, answer.text
                time.sleep(0.3)
                change(client, sources, name, kinds, choose)
            count += 1
            time.sleep(0.05)
    return count


def test_campaign(server: LmiProcess, sources: Path, cached: int) -> None:
    """Every answer is that adapter's own sentence, and the base model's stay the base model's."""
    url, kinds = server.url, Kinds()
    with httpx.Client(base_url=url, timeout=60) as client:
        for name in NAMES:
            assert client.post("/adapters", params={"name": name, "src": name}).status_code == 200
        Caller(url, kinds, 99).ask_all()
        assert client.post(f"/adapters/{PINNED}/update", params={"pin": "true"}).status_code == 200

    callers = [Caller(url, kinds, seed) for seed in range(NUM_CLIENTS)]
    is_over = threading.Event()
    with ThreadPoolExecutor(NUM_CLIENTS + 1) as pool:
        # The first full cycle: every adapter called, and the engine's own memory in use under this load.
        for called in [pool.submit(caller.ask_some, 60) for caller in callers]:
            called.result(600)
        cycle_bytes = memory_bytes(server)
        changing = pool.submit(changes, url, sources, kinds, is_over)
        try:
            for called in [pool.submit(caller.ask_some, 2000 // NUM_CLIENTS) for caller in callers]:
                called.result(600)
        finally:
            is_over.set()
        num_changes = changing.result(120)
    ends = sum((caller.ends for caller in callers), Counter())
    assert set(ends) <= {"right", "gone"}, ends
    assert ends["right"] > 2500, ends
    assert ends["gone"] < 500, ends
    assert num_changes > 50

    with httpx.Client(base_url=url, timeout=60) as client:
        Caller(url, kinds, 97).ask_all()
        for kind in KINDS:
            body = {"inputs": QUESTIONS[0], "adapters": kind, "parameters": PARAMETERS}
            assert client.post("/invocations", json=body).json()["generated_text"] == demo.answers(kind)[QUESTIONS[0]]
        listed = [adapter["name"] for adapter in client.get("/adapters").json()["adapters"]]
        served = [model["id"] for model in client.get("/v1/models").json()["data"]]
        in_engine = client.post("/collective_rpc", json={"method": "list_loras"}).json()["results"][0]
    assert listed == sorted([*NAMES, *KINDS])
    assert set(listed) <= set(served)
    assert len(in_engine) == min(len(listed), cached)
    assert metric(url, "lmi_adapter_requests_waiting") == 0
    growth = memory_bytes(server) / cycle_bytes
    assert growth < 1.05
    print(f"{dict(ends)}, {num_changes} changes, memory x {growth:.3f}")


def configured(directory: Path, **values: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def reshaped(directory: Path) -> None:
    tensors = load_file(directory / "adapter_model.safetensors")
    save_file({name: torch.ones(3, 3) for name in tensors}, directory / "adapter_model.safetensors")


def renamed(directory: Path) -> None:
    """As of a model with more layers."""
    tensors = load_file(directory / "adapter_model.safetensors")
    other = {name.replace("layers.0.", "layers.77."): tensor for name, tensor in tensors.items()}
    save_file(other, directory / "adapter_model.safetensors")


def sparse(directory: Path) -> None:
    with (directory / "adapter_model.safetensors").open("wb") as file:
        file.truncate(10 * 1024**3)


def looped(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.symlink_to(directory)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "is not a valid path"),
    "empty": (lambda path: [one.unlink() for one in path.iterdir()], "adapter_config.json: not found"),
    "not JSON": (lambda path: (path / "adapter_config.json").write_text("{"), "not valid JSON"),
    "rank": (lambda path: configured(path, r=512), "LoRA rank 512 is greater than max_lora_rank"),
    "wrong base model": (renamed, "does not exist in the base model"),
    "shapes": (reshaped, "adapter_model.safetensors: "),
    "truncated": (lambda path: os.truncate(path / "adapter_model.safetensors", 3000), "not a whole safetensors file"),
    "sparse": (sparse, "not a whole safetensors file"),
    "loop": (looped, "is not a valid path"),
}


def text_of(stream: str) -> str:
    """What the lines of a stream say together."""
    return "".join(json.loads(line)["token"]["text"] for line in stream.splitlines() if line).removesuffix("</s>")


def test_bad_adapters(server: LmiProcess, sources: Path) -> None:
    """Each gets its error, while a stream on another adapter goes on unharmed."""
    good = demo.answers(KINDS[0])[QUESTIONS[0]]
    is_over, streams = threading.Event(), []

    def stream() -> None:
        while not is_over.is_set():
            body = {"inputs": QUESTIONS[0], "adapters": KINDS[0], "parameters": PARAMETERS, "stream": True}
            answer = httpx.post(f"{server.url}/invocations", json=body, timeout=60)
            streams.append(answer.text)

    threads = [threading.Thread(target=stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def registered(name: str, src: str) -> tuple[int, str]:
            answer = client.post("/adapters", params={"name": name, "src": src})
            return answer.status_code, answer.text

        before = client.get("/adapters").json()
        for number, (kind, (spoil, text)) in enumerate(BAD.items()):
            directory = sources / f"bad{number}"
            shutil.copytree(demo.ADAPTERS_DIR / KINDS[1], directory)
            spoil(directory)
            status, told = registered(f"bad {kind}", directory.name)
            assert (status, text in told) == (424, True), (kind, status, told)
        for src in ("/etc", "..", f"{sources}/../x"):
            status, told = registered("outside", src)
            assert (status, "outside option.adapter_roots" in told) == (424, True), (src, told)
        for name in ("a/b", "x\n", "\x00", "", " "):
            status, told = registered(name, NAMES[0])
            assert (status, "parameter name" in told) == (400, True), (name, status, told)
        assert registered(KINDS[1], KINDS[1])[0] == 409
        assert client.delete("/adapters/nobody").status_code == 404
        shutil.copytree(demo.ADAPTERS_DIR / KINDS[1], sources / "twice")
        assert registered("twice", "twice")[0] == 200
        assert [client.delete("/adapters/twice").status_code for _ in range(2)] == [200, 404]
        assert client.get("/adapters").json() == before
    is_over.set()
    for thread in threads:
        thread.join()
    assert len(streams) >= len(threads)
    assert {text_of(stream) for stream in streams} == {good}
