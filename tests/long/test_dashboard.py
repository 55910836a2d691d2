# SPDX-License-Identifier: Apache-2.0
"""Every query of the Grafana dashboard, asked of a real Prometheus that scrapes the server under load."""

import asyncio
import math
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import yaml

from serving import demo
from serving.config.options import ASYNC_SERVICE
from tests.dashboard import DOCKER, VARIABLES, chosen, interpolated, queries
from tests.e2e.process import LmiProcess

PROMETHEUS = os.environ.get("PROMETHEUS") or shutil.which("prometheus")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        PROMETHEUS is None, reason="no prometheus on the path, and no PROMETHEUS variable: apt install prometheus"
    ),
]

QUESTION = "What is LoRA?"
CHAT = [{"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
NUM_IN_FLIGHT = 3
PATIENCE_S = 240
RATE_INTERVAL = "1m"
"""Four times the interval of the scrapes that Grafana is told of."""
HANDLER = """
import os

async def handle(inputs):
    if not inputs.is_empty():
        match inputs.get_as_json().get("fail"):
            case "raise": raise ValueError("asked to")
            case "die": os._exit(7)
    return None
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmiProcess]:
    """The demo model, room for few requests, a handler that fails when it is asked to, and an adapter that is none."""
    directory = tmp_path_factory.mktemp("models")
    shutil.copytree(demo.MODEL_DIR, directory / "demo")
    (directory / "demo" / "model.py").write_text(HANDLER)
    (directory / "empty").mkdir()
    env = {"OPTION_ENTRYPOINT": ASYNC_SERVICE, "OPTION_DEFAULT_ENGINE": "eager", "OPTION_ADAPTER_ROOTS": str(directory)}
    env |= {"OPTION_MAX_ROLLING_BATCH_SIZE": "2", "SERVING_JOB_QUEUE_SIZE": str(NUM_IN_FLIGHT - 2)}
    with LmiProcess([str(directory / "demo"), "--port", "0"], env) as process:
        yield process


@pytest.fixture(scope="module")
def prometheus(server: LmiProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a Prometheus that runs with our configuration, but for the interval and the target."""
    assert PROMETHEUS is not None
    directory = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text("utf-8"))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [server.url.removeprefix("http://")]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    command = [PROMETHEUS, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            until(lambda: is_ready(client), 60, lambda: (directory / "log").read_text())
            yield client
    finally:
        process.terminate()
        process.wait(30)


def until(is_so: Callable[[], bool], timeout_s: float, story: Callable[[], object]) -> None:
    """Waits for it; fails with what the story is then."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, story()
        time.sleep(0.5)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """One kind of request after the other, again and again, and a crowd that is too large.

    Attributes:
        statuses: how often each was answered with, by path.
        num_rounds: how often everything was asked.
    """

    def __init__(self, url: str):
        self.statuses: Counter[str] = Counter()
        self.num_rounds = 0
        self._url = url

    def run(self, is_over: threading.Event) -> None:
        """Makes it until it is over."""
        while not is_over.is_set():
            with httpx.Client(base_url=self._url, timeout=60) as client:
                self._ask(client)
            asyncio.run(self._crowd())
            self.num_rounds += 1

    def _ask(self, client: httpx.Client) -> None:
        body: dict[str, Any] = {"inputs": QUESTION, "parameters": {"max_new_tokens": 20}}
        for path, fields in [
            ("/invocations", body),
            ("/invocations", body | {"stream": True}),
            ("/invocations", body | {"adapters": "pirate"}),
            ("/invocations", body | {"fail": "raise"}),
            ("/invocations", {"neither": "of them"}),
            ("/generate", body),
            ("/generate_stream", body),
            ("/v1/completions", {"prompt": QUESTION, "max_tokens": 20}),
            ("/v1/completions", {"prompt": QUESTION, "max_tokens": 20, "model": "brief", "stream": True}),
            ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 20, "stream": True}),
            ("/v1/chat/completions", {"messages": CHAT, "tools": [TOOL], "max_tokens": 20}),
            ("/v1/completions", {"prompt": QUESTION, "max_tokens": -1}),
        ]:
            self._count(path, client.post(path, json=fields))
        if self.num_rounds == 0:
            self._count("/invocations", client.post("/invocations", json=body | {"fail": "die"}))
            self._count("/adapters", client.post("/adapters", params={"name": "empty", "src": "empty"}))

    async def _crowd(self) -> None:
        """Streams that take all the room; others are refused; then the streams' clients leave."""
        body = {"prompt": QUESTION, "stream": True, "max_tokens": 1900, "ignore_eos": True, "n": 16}
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:
            streams = [asyncio.create_task(client.post("/v1/completions", json=body)) for _ in range(NUM_IN_FLIGHT)]
            while f"lmi_requests_in_flight {NUM_IN_FLIGHT}.0" not in (await client.get("/metrics")).text:
                assert not any(stream.done() for stream in streams), "too short to fill the server"
            for path in ("/invocations", "/generate"):
                self._count(path, await client.post(path, json={"inputs": QUESTION}))
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            while "lmi_requests_in_flight 0.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.05)

    def _count(self, path: str, answer: httpx.Response) -> None:
        self.statuses[f"{path} {answer.status_code}"] += 1


@contextmanager
def load_on(url: str) -> Iterator[Load]:
    """Load for as long as the block runs."""
    load, is_over = Load(url), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load.run, is_over)
        try:
            yield load
        finally:
            is_over.set()
            running.result(60)


def values(client: httpx.Client, expression: str) -> list[float]:
    """The values that an expression has now."""
    answer = client.post("/api/v1/query", data={"query": expression}).json()
    assert answer["status"] == "success", f"{expression}: {answer}"
    return [float(sample["value"][1]) for sample in answer["data"]["result"]]


def has_data(client: httpx.Client, expression: str) -> bool:
    return any(math.isfinite(value) for value in values(client, expression))


def labels(client: httpx.Client, query: str, variables: Mapping[str, str]) -> list[str]:
    """What Grafana offers for a variable with this query."""
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
    assert match is not None, query
    parameters = {"match[]": interpolated(match[1], variables)}
    return list(client.get(f"/api/v1/label/{match[2]}/values", params=parameters).json()["data"])


def test_every_query_has_data(server: LmiProcess, prometheus: httpx.Client) -> None:
    """With everything chosen, and with this job and instance; also without the zeros that stand in for no series."""
    everything = {"__rate_interval": RATE_INTERVAL, "job": VARIABLES["job"]["allValue"]}
    everything["instance"] = VARIABLES["instance"]["allValue"]
    address = server.url.removeprefix("http://")
    one = everything | {"job": chosen("lmi"), "instance": chosen(address)}
    sent = [
        (query.name, interpolated(expression, variables))
        for query in queries()
        for variables in (everything, one)
        for expression in (query.expression, query.without_default)
    ]

    def without_data() -> list[str]:
        return [f"{name}: {text}" for name, text in sent if not has_data(prometheus, text)]

    with load_on(server.url) as load:
        until(lambda: not without_data(), PATIENCE_S, lambda: "\n".join([*without_data(), str(load.statuses)]))
        offered = {name: labels(prometheus, VARIABLES[name]["definition"], everything) for name in ("job", "instance")}
    assert offered == {"job": ["lmi"], "instance": [address]}
    print(f"{len(queries())} queries, {load.num_rounds} rounds of {dict(load.statuses)}")


def test_another_job(server: LmiProcess, prometheus: httpx.Client) -> None:
    """Every query keeps to the job that was chosen, and has a zero where it is to have one in place of nothing."""
    other = {"__rate_interval": RATE_INTERVAL, "job": chosen("another"), "instance": ".+"}
    found = {query: values(prometheus, interpolated(query.expression, other)) for query in queries()}
    with_default = {query for query in found if query.expression != query.without_default}
    assert {query.name for query in with_default} > {"Fallbacks by reason A", "Requests by adapter A"}
    assert {query: seen for query, seen in found.items() if seen != ([0.0] if query in with_default else [])} == {}
