# SPDX-License-Identifier: Apache-2.0
"""Ours beside vLLM's own server on the same model and flags, started in turn A B A B: `make bench`.

Three kinds of engine: `paced` invents tokens at a pace that both servers keep up with, so that the CPU of the process
that answers HTTP can be told; `instant` invents them at once, so that this process is the limit; `real` is the demo
model on the CPU, where the engine is the limit, and where the time to ready counts. Writes `results/serving.json`
and `results/serving.md`; `plot.py` draws the former.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.servers import COMMANDS, OURS, RESULTS, ROOT, UPSTREAM, Served, machine, served
from serving import demo
from tests.conftest import commit

ROUNDS = 3
LOAD_TIMEOUT_S = 600
MODEL = ["--model", str(demo.MODEL_DIR), "--dtype", "bfloat16", "--kv-cache-memory-bytes", "1G"]
INVENTED = [
    *MODEL, "--enforce-eager",
    "--max-num-seqs", "1024", "--max-model-len", "16384", "--max-num-batched-tokens", "16384",
    "--hf-overrides", '{"max_position_embeddings": 16384}',
    "--distributed-executor-backend", "benchmarks.paced_executor.PacedExecutor",
]  # fmt: skip
ADAPTERS = [
    "--enable-lora", "--max-lora-rank", "8", "--max-loras", "4",
    "--lora-modules", *(f"{name}={demo.ADAPTERS_DIR / name}" for name in demo.adapter_names()),
]  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One load, asked of both servers; `route` and `upstream_route` are names of `load.ROUTES`."""

    route: str
    upstream_route: str
    clients: int
    requests: int
    tokens: int = 64
    words: int = 12
    stream: bool = True
    spread_s: float = 0.0

    @property
    def name(self) -> str:
        """As the tables have it."""
        prompt = f", prompt of {self.words} words" if self.words > 100 else ""
        return f"{self.route}, {'streamed' if self.stream else 'whole'}, {self.clients} at once{prompt}"


@dataclass(frozen=True)
class Kind:
    """One kind of engine: `flags` and `env` of both servers, `ours` for ours alone, and what is asked of them."""

    flags: Sequence[str]
    ours: Sequence[str]
    env: Mapping[str, str]
    cells: Sequence[Cell]


LMI = ("lmi", "completions-logprobs")
KINDS = {
    "paced": Kind(
        INVENTED,
        ["--no-enable-lora"],
        {"BENCH_STEP_US": "2000", "BENCH_SEQUENCE_US": "300"},
        [
            Cell(*LMI, clients=1, requests=24),
            Cell(*LMI, clients=16, requests=8, spread_s=0.4),
            Cell(*LMI, clients=64, requests=5),
            Cell(*LMI, clients=128, requests=3),
            Cell(*LMI, clients=512, requests=1),
            Cell(*LMI, clients=1024, requests=1),
            Cell("tgi", "completions-logprobs", clients=64, requests=5),
            Cell("completions", "completions", clients=64, requests=5),
            Cell("completions-logprobs", "completions-logprobs", clients=64, requests=5),
            Cell("chat", "chat", clients=64, requests=5),
            Cell(*LMI, clients=64, requests=5, stream=False),
            Cell("tgi", "completions-logprobs", clients=64, requests=5, stream=False),
            Cell("completions", "completions", clients=64, requests=5, stream=False),
            Cell(*LMI, clients=16, requests=2, words=8000),
        ],
    ),
    "instant": Kind(
        INVENTED,
        ["--no-enable-lora"],
        {},
        [
            Cell(*LMI, clients=64, requests=8),
            Cell("completions", "completions", clients=16, requests=20),
            Cell("completions", "completions", clients=64, requests=8),
            Cell("completions", "completions", clients=64, requests=12, stream=False),
            Cell("chat", "chat", clients=64, requests=8),
            Cell("chat", "chat", clients=64, requests=12, stream=False),
        ],
    ),
    "real": Kind(
        [*MODEL, "--max-model-len", "2048", "--max-num-seqs", "256", *ADAPTERS],
        [],
        {},
        [Cell(*LMI, clients=16, requests=6)],
    ),
}
COLUMNS = {
    "cpu_us_per_token": ("CPU per token (us)", "{:.1f}"),
    "tokens_per_s": ("tokens/s", "{:,.0f}"),
    "requests_per_s": ("requests/s", "{:,.1f}"),
    "first_p50_ms": ("first piece (ms)", "{:.1f}"),
    "gap_p50_ms": ("gap (ms)", "{:.1f}"),
    "gap_p99_ms": ("gap p99 (ms)", "{:.1f}"),
}


def load(server: Served, route: str, cell: Cell) -> dict[str, float]:
    """What one load saw, and the CPU that the server took for it."""
    command = [
        sys.executable, "-m", "benchmarks.load", "--port", str(server.port), "--route", route,
        "--clients", str(cell.clients), "--requests", str(cell.requests),
        "--tokens", str(cell.tokens), "--words", str(cell.words), *(["--stream"] if cell.stream else []),
        "--spread", str(cell.spread_s),
    ]  # fmt: skip
    before, made_before = server.cpu_s(), generated(server)
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=LOAD_TIMEOUT_S)
    cpu_s = server.cpu_s() - before
    seen: dict[str, Any] = json.loads(run.stdout)
    assert generated(server) - made_before == seen["num_tokens"], "not every token that was asked for was made"
    return {
        "cpu_us_per_token": 1e6 * cpu_s / seen["num_tokens"],
        "tokens_per_s": seen["tokens_per_s"],
        "requests_per_s": seen["requests_per_s"],
        "first_p50_ms": seen["first_ms"]["p50"],
        "gap_p50_ms": seen["gap_ms"]["p50"],
        "gap_p99_ms": seen["gap_ms"]["p99"],
        "pieces_per_request": seen["pieces_per_request"],
    }


def generated(server: Served) -> float:
    """Tokens that the engine has made, as its metrics say."""
    return sum(float(value) for value in re.findall(r"^vllm:generation_tokens_total\S* (\S+)$", server.metrics(), re.M))


def own_time(server: Served, before: Mapping[float, float]) -> dict[str, float]:
    """Milliseconds of our own per request on LMI's routes: the upper edges of the buckets with p50 and p99."""
    counts = {edge: count - before.get(edge, 0.0) for edge, count in buckets(server).items()}
    total = max(counts.values())
    return {
        f"p{percent}": 1000 * min(edge for edge, count in counts.items() if count >= total * percent / 100)
        for percent in (50, 99)
    }


def buckets(server: Served) -> dict[float, float]:
    """Upper edges in seconds, and how many requests took no longer."""
    found = re.findall(
        r'^lmi_request_overhead_seconds_bucket{family="lmi",le="([^"]+)"} (\S+)$', server.metrics(), re.M
    )
    return {float(edge): float(count) for edge, count in found}


def measure(kind: Kind, name: str) -> dict[str, Any]:
    """One start of one server, and every load of a kind."""
    flags = [*kind.flags, *(kind.ours if name == OURS else [])]
    env = {"SERVING_JOB_QUEUE_SIZE": "4096", "PYTHONPATH": str(ROOT), "VLLM_NO_USAGE_STATS": "1", **kind.env}
    with served(name, flags, env) as server:
        result: dict[str, Any] = {"ready_s": server.seconds, "cells": {}}
        for cell in kind.cells:
            route = cell.route if name == OURS else cell.upstream_route
            warm = Cell(cell.route, cell.upstream_route, min(cell.clients, 16), 1, 8, cell.words, cell.stream)
            load(server, route, warm)
            before = buckets(server)
            result["cells"][cell.name] = load(server, route, cell)
            if name == OURS and cell.spread_s:
                result["own_ms"] = own_time(server, before)
        result["memory_mib"] = server.memory_mib()
        if name == OURS:
            phases = re.findall(r'^lmi_start_seconds{phase="([^"]+)"} (\S+)$', server.metrics(), re.M)
            result["start"] = {phase: float(seconds) for phase, seconds in phases}
    return result


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several results of the same shape."""
    first = runs[0]
    return {
        key: medians([run[key] for run in runs])
        if isinstance(value, Mapping)
        else statistics.median(run[key] for run in runs)
        for key, value in first.items()
    }


def table(kind: Kind, results: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """A row per cell: ours, vLLM's and the ratio of each figure."""
    titles = [COLUMNS[column][0] for column in columns]
    yield "| load | " + " | ".join(titles) + " |"
    yield "|---|" + "---|" * len(titles)
    for cell in kind.cells:
        ours, theirs = (results[name]["cells"][cell.name] for name in (OURS, UPSTREAM))
        texts = []
        for column in columns:
            form, a, b = COLUMNS[column][1], ours[column], theirs[column]
            texts.append(f"{form.format(a)} / {form.format(b)}" + (f" = **{a / b:.2f}**" if b else ""))
        yield f"| {cell.name} | " + " | ".join(texts) + " |"


def report(record: Mapping[str, Any]) -> str:
    """`results/serving.md`: a section for each kind of engine that was measured."""
    found = record["medians"]
    lines = [
        "# Beside `vllm serve`",
        "",
        f"Made by `make bench` on {record['machine']}, commit {record['commit']}: medians of",
        f"{record['rounds']} round(s), each a start of ours and one of vLLM's on the same flags. A field has ours /",
        "vLLM's = **ratio**. LMI's and TGI's routes stand beside `/v1/completions` with `logprobs=1`, which is the",
        "same work; `benchmarks/README.md` says how it is measured.",
        "",
    ]
    if (paced := found.get("paced")) is not None:
        own = paced[OURS]["own_ms"]
        lines += [
            "## A paced engine: what a token costs",
            "",
            *table(KINDS["paced"], paced, ["cpu_us_per_token", "first_p50_ms", "gap_p50_ms", "gap_p99_ms"]),
            "",
            "Our own time per request on `/invocations`, 16 streams that begin by turns: p50 at most",
            f"{own['p50']:.2f} ms, p99 at most {own['p99']:.2f} ms (edges of a histogram). Memory of the",
            "process that answers HTTP, after all of this:",
            f"{paced[OURS]['memory_mib']:.0f} / {paced[UPSTREAM]['memory_mib']:.0f} MiB.",
            "",
        ]
    if (instant := found.get("instant")) is not None:
        lines += [
            "## An instant engine: what the server can carry",
            "",
            *table(KINDS["instant"], instant, ["tokens_per_s", "requests_per_s", "cpu_us_per_token"]),
            "",
        ]
    if (real := found.get("real")) is not None:
        ready = {name: real[name]["ready_s"] for name in COMMANDS}
        start = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in real[OURS]["start"].items() if seconds >= 0.05)
        lines += [
            "## The real engine: the demo model with adapters, on the CPU",
            "",
            *table(KINDS["real"], real, ["tokens_per_s", "first_p50_ms", "gap_p50_ms"]),
            "",
            "Here the engine is the limit.",
            "",
            f"Time to ready: {ready[OURS]:.1f} / {ready[UPSTREAM]:.1f} s = **{ready[OURS] / ready[UPSTREAM]:.2f}**.",
            f"Where ours goes, in seconds: {start}.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measures in turn, and writes what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {kind: {name: [] for name in COMMANDS} for kind in given.kinds}
    for number in range(given.rounds):
        for kind in given.kinds:
            for name in COMMANDS:
                runs[kind][name].append(measure(KINDS[kind], name))
                print(f"round {number + 1}: {kind}, {name}: {json.dumps(runs[kind][name][-1])}", flush=True)
    found = {kind: {name: medians(runs[kind][name]) for name in COMMANDS} for kind in given.kinds}
    record = {"commit": commit(), "machine": machine(), "rounds": given.rounds, "medians": found, "runs": runs}
    (RESULTS / "serving.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "serving.md").write_text(report(record), encoding="utf-8")
    print(report(record))


if __name__ == "__main__":
    main()
