# SPDX-License-Identifier: Apache-2.0
"""Two replicas of the demo model on Ray Serve under load: clients leave, a replica is killed, then the engine of one.

Which replica had a request is read from the replicas' request logs, by the id that the client gave it. `make test-ray`
installs Ray and records the counts (`LMI_RAY_RECORD`).
"""

import asyncio
import itertools
import json
import os
import platform
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.conftest import ROOT, commit
from tests.long.load import KINDS, QUESTIONS, STREAMS, Kind, unfinished, verdict
from tests.processes import is_alive, left_after

ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-ray` does that")
pytestmark = pytest.mark.long
RECORD = os.environ.get("LMI_RAY_RECORD")
"""A directory for `ray.json` and `ray.md`."""
SERVE = """\
import signal
import ray
from ray.serve.scripts import cli

signal.signal(signal.SIGINT, signal.default_int_handler)
ray.init(include_dashboard=False, namespace="serve")
cli()
"""
"""The command `serve`, without Ray's dashboard, which is ten processes; Ctrl-C ends it in the background, too."""
START_TIMEOUT_S = 1800
BEFORE_S = 15.0
AFTER_S = 20.0
MOST_S = 5.0
"""From a replica's death to the error of what was in flight on it."""
NOTICED_S = 3.0
"""From an engine's death to the end of its replica, which takes requests until then."""
IDLE_S = 20.0
NUM_CLIENTS = 8
THINK_S = 0.2
START_THINK_S = 10.0
"""While a model is loaded, on the same few cores."""
TITLE = "ray::ServeReplica:default:lmi"
READY = "where the start's time went"


@dataclass(frozen=True)
class Asked:
    """One request and its end, in seconds of the monotonic clock."""

    id: str
    kind: str
    began: float
    ended: float
    end: str


class Cluster:
    """`serve run` with a configuration, in a session of its own: Ray's processes, the proxy and the replicas."""

    def __init__(self, args: dict[str, Any]):
        self._directory = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets are below it
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        application = {"name": "default", "route_prefix": "/", "import_path": "serving.ray_app:app", "args": args}
        config = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}
        (self._directory / "serve.yaml").write_text(yaml.safe_dump(config))
        self.output = self._directory / "output"
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE, "run", str(self._directory / "serve.yaml")],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env
                | {
                    "RAY_TMPDIR": str(self._directory),
                    "RAY_AUTH_MODE": "disabled",
                    "RAY_USAGE_STATS_ENABLED": "0",
                    # A busy machine takes longer than Ray waits for its own helpers.
                    "RAY_agent_register_timeout_ms": "240000",
                    "RAY_raylet_start_wait_time_s": "240",
                    # Ray gives way to everything else on the machine, the clients here among it.
                    "RAY_worker_niceness": "0",
                    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
                },
            )
        self.root = psutil.Process(self._process.pid)

    def replicas(self) -> list[psutil.Process]:
        """The replicas' processes, those that still start included."""
        found = []
        for process in self.root.children(recursive=True):
            with suppress(psutil.Error, IndexError):
                if process.cmdline()[0].startswith(TITLE):
                    found.append(process)
        return found

    def ready(self) -> list[psutil.Process]:
        """The replicas that have loaded their model."""
        return [one for one in self.replicas() if READY in self.log(one.pid)]

    def log(self, pid: int) -> str:
        """What a replica wrote to standard error."""
        files = self._directory.glob(f"ray/session_2*/logs/worker-*-{pid}.err")
        return "".join(file.read_text(errors="replace") for file in files)

    def served(self, pid: int) -> list[str]:
        """Ids of the requests that a replica finished, in their order."""
        return re.findall(r"request_id=(\S+)", self.log(pid))

    async def wait_ready(self, count: int = 2, but: int = 0) -> None:
        """Returns once `count` replicas other than `but` are ready, and Ray sends them requests."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while len([one for one in self.ready() if one.pid != but]) < count:
            assert is_alive(self.root.pid), self.output.read_text()[-4000:]
            assert time.monotonic() < deadline, self.output.read_text()[-4000:]
            await asyncio.sleep(0.5)
        async with httpx.AsyncClient(base_url=self.url) as http:
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get("/ready")).status_code == 200:
                        return
                assert time.monotonic() < deadline, self.output.read_text()[-4000:]
                await asyncio.sleep(0.5)

    def close(self) -> list[int]:
        """Ends it as Ctrl-C does; returns what was still there half a minute later, which is killed."""
        family = [self.root, *self.root.children(recursive=True)]
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(120)
        left = left_after(family, 30)
        for one in family:
            with suppress(psutil.Error):
                one.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
        return left


class Load:
    """Clients that ask one thing after another until they are told to stop.

    Attributes:
        asked: every request that ended.
        think_s: a client rests up to this long after each.
    """

    def __init__(self, http: httpx.AsyncClient, name: str):
        self.asked: list[Asked] = []
        self.think_s = THINK_S
        self._http = http
        self._ids = (f"{name}-{number}" for number in itertools.count())
        self._choose = random.Random(name)
        self._is_over = False
        self._clients: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._clients = [asyncio.create_task(self._run()) for _ in range(NUM_CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._clients)

    async def _run(self) -> None:
        while not self._is_over:
            await asyncio.sleep(self._choose.uniform(0, self.think_s))
            await self._ask(self._choose.choice(KINDS), self._choose.choice(QUESTIONS))

    async def _ask(self, kind: Kind, question: str) -> None:
        request_id, began = next(self._ids), time.monotonic()
        try:
            answer = await self._http.post(kind.path, json=kind.body(question), headers={"x-request-id": request_id})
            end = verdict(question, answer.status_code, answer.text)
        except httpx.TransportError as error:
            end = f"{type(error).__name__}: {error}"
        self.asked.append(Asked(request_id, str(kind), began, time.monotonic(), end))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    args = {"demo": True, "num_replicas": 2, "ray_actor_options": {"num_cpus": 0.5}}
    cluster = Cluster(args)
    try:
        asyncio.run(cluster.wait_ready())
        yield cluster
    finally:
        left = cluster.close()
    assert left == []


async def under_load(cluster: Cluster, name: str, victim: psutil.Process, target: int) -> tuple[Load, float, float]:
    """The load around the kill of `target`; also when that was, and when two replicas were there again."""
    limits = httpx.Limits(max_connections=NUM_CLIENTS)
    async with (
        httpx.AsyncClient(base_url=cluster.url, timeout=120, limits=limits) as http,
        Load(http, name) as load,
    ):
        await asyncio.sleep(BEFORE_S)
        killed = time.monotonic()
        os.kill(target, signal.SIGKILL)
        await asyncio.sleep(AFTER_S)
        load.think_s = START_THINK_S
        await cluster.wait_ready(but=victim.pid)
        back = time.monotonic()
        load.think_s = THINK_S
        await asyncio.sleep(AFTER_S)
    await asyncio.sleep(1)  # a replica writes its line after the answer
    return load, killed, back


def check(cluster: Cluster, load: Load, pids: dict[str, int], killed: float, noticed_s: float = 0.0) -> list[Asked]:
    """All are right but what was in flight on the victim; returns that."""
    failed = [one for one in load.asked if one.end != "right"]
    assert failed, "nothing was in flight on it"
    assert [one for one in failed if not one.began < killed + noticed_s] == []
    assert [one for one in failed if one.ended - max(killed, one.began) > MOST_S] == []
    served = {name: set(cluster.served(pid)) for name, pid in pids.items()}
    ours = {one.id for one in load.asked}
    assert {one.id for one in failed} & (served["survivor"] | served["new"]) == set()
    assert served["new"] & ours, "the new replica has answered nothing"
    finished = Counter(itertools.chain.from_iterable(served[name] & ours for name in served))
    unlogged = [one for one in load.asked if one.end == "right" and one.id not in finished]
    assert [one for one in unlogged if abs(one.ended - killed) > 1] == []  # killed between the answer and its line
    assert max(finished.values()) == 1
    return failed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own classes
def test_configuration_file() -> None:
    """Ray takes the file that we ship; `tests/unit/test_deployment_files.py` asks the server."""
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "docker/ray/serve.yaml").read_text()))
    assert [application.name for application in schema.applications] == ["lmi"]


async def test_clients_that_leave(cluster: Cluster) -> None:
    """Their requests end in the engines: both are idle a moment later."""

    async def leave(http: httpx.AsyncClient, kind: Kind) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1.5), http.stream("POST", kind.path, json=kind.long_body()) as answer:
                async for _ in answer.aiter_bytes():
                    pass
            pytest.fail(f"{kind} {answer.status_code} ended")

    async with httpx.AsyncClient(base_url=cluster.url, timeout=120) as http:
        await asyncio.gather(*(leave(http, kind) for kind in [*STREAMS, *KINDS]))
    deadline, num_idle = time.monotonic() + IDLE_S, 0
    while num_idle < 10:  # which of the two answers is chance
        busy = await asyncio.to_thread(unfinished, cluster.url)
        num_idle = 0 if busy else num_idle + 1
        assert not busy or time.monotonic() < deadline, busy


async def test_replica_killed(cluster: Cluster) -> None:
    """Lost is what was in flight on it, each with an error within 5 s; a new one takes its place."""
    survivor, victim = cluster.ready()
    family = [victim, *victim.children(recursive=True)]
    load, killed, back = await under_load(cluster, "replica", victim, victim.pid)
    (new,) = [one for one in cluster.ready() if one.pid != survivor.pid]
    pids = {"survivor": survivor.pid, "victim": victim.pid, "new": new.pid}
    failed = check(cluster, load, pids, killed)
    assert left_after(family, 5) == []
    record("replica", cluster, load, pids, failed, killed, back)


async def test_engine_killed(cluster: Cluster) -> None:
    """The replica goes with its engine, and a new one takes its place."""
    survivor, victim = cluster.ready()
    (engine,) = [one for one in victim.children(recursive=True) if "EngineCore" in " ".join(one.cmdline())]
    load, killed, back = await under_load(cluster, "engine", victim, engine.pid)
    assert not is_alive(victim.pid)
    (new,) = [one for one in cluster.ready() if one.pid != survivor.pid]
    pids = {"survivor": survivor.pid, "victim": victim.pid, "new": new.pid}
    failed = check(cluster, load, pids, killed, NOTICED_S)
    record("engine", cluster, load, pids, failed, killed, back)


def record(
    name: str, cluster: Cluster, load: Load, pids: dict[str, int], failed: list[Asked], killed: float, back: float
) -> None:
    """Prints the counts, and keeps them where a directory is named."""
    ours = {one.id for one in load.asked}
    row = {
        "asked": len(load.asked),
        "right": sum(one.end == "right" for one in load.asked),
        "streamed": sum(one.kind.endswith("stream") for one in load.asked),
        "failed": len(failed),
        "answered_by": {who: len({*cluster.served(pid)} & ours) for who, pid in pids.items()},
        "slowest_error_s": round(max(one.ended - max(killed, one.began) for one in failed), 2),
        "back_s": round(back - killed, 1),
        "failed_with": dict(Counter(one.end[:80] for one in failed)),
    }
    print(name, json.dumps(row))
    if RECORD:
        write_record(Path(RECORD), name, row)


def write_record(directory: Path, name: str, row: dict[str, Any]) -> None:
    """Adds the counts of one test to those of the other: as JSON, and as a table to read."""
    path = directory / "ray.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    rows = {key: earlier[key] for key in ("replica", "engine") if key in earlier} | {name: row}
    path.write_text(
        json.dumps({"commit": commit(), "machine": machine, "ray": ray.__version__, **rows}, indent=2) + "\n"
    )
    lines = [
        "# Ray Serve",
        "",
        f"Made by `make test-ray`: two replicas of the demo model, Ray {ray.__version__}, {machine},",
        f"commit {commit()}. {NUM_CLIENTS} clients, each asking one thing after another, on every route; a process of",
        "one replica gets SIGKILL.",
        "",
        "| killed | requests | of them streamed | right | lost: in flight on it | slowest error | two replicas again |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(
            f"| the {key}{'' if key == 'replica' else ' of one'} | {one['asked']:,} | {one['streamed']:,} "
            f"| {one['right']:,} | {one['failed']} | {one['slowest_error_s']} s | {one['back_s']} s |"
            for key, one in rows.items()
        ),
        "",
    ]
    (directory / "ray.md").write_text("\n".join(lines))
