# SPDX-License-Identifier: Apache-2.0
"""Time to ready beside vLLM's own server: same model, same flags, starts in turn A B A B.

`make bench-start`. Ready means the first 200 on `/health`, counted from exec. Writes `results/start.json` and prints
the table for `results/start.md`. vLLM's server is started through its own entry module, not through ours.
"""

import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from serving import demo

RESULTS = Path(__file__).parent / "results"
RUNS = 3
TIMEOUT_S = 300
FLAGS = [
    "--enable-lora", "--max-lora-rank", "8", "--max-model-len", "2048", "--dtype", "bfloat16",
    "--max-num-seqs", "256", "--kv-cache-memory-bytes", "1G", "--host", "127.0.0.1",
    "--model", str(demo.MODEL_DIR),
    "--lora-modules", *(f"{name}={demo.ADAPTERS_DIR / name}" for name in demo.adapter_names()),
]  # fmt: skip
# On CPU ours adds a slot to what was asked for, so that both engines get five.
COMMANDS = {
    "lmi serve": [str(Path(sys.executable).parent / "lmi"), "serve", "--max-loras", "4"],
    "vllm serve": [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--max-loras", "5"],
}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_ready(port: int) -> bool:
    """The server answers its health check with 200."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def start_seconds(command: list[str]) -> float:
    """Seconds from exec to ready; the server is ended afterwards."""
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, *FLAGS, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() - began > TIMEOUT_S:
                raise SystemExit(f"not ready: {' '.join(command)}")
            time.sleep(0.05)
        return time.monotonic() - began
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    """Measures, prints the table, writes the record."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            seconds[name].append(round(start_seconds(command), 2))
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["lmi serve"] / medians["vllm serve"]
    record = {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "flags": [flag.replace(str(demo.MODEL_DIR), "DEMO") for flag in FLAGS],
        "seconds": seconds,
        "median_ratio": round(ratio, 3),
    }
    (RESULTS / "start.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print("\n| server | runs (s) | median (s) |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| `{name}` | {', '.join(f'{value:.1f}' for value in values)} | {medians[name]:.1f} |")
    print(f"\nratio of the medians: {ratio:.2f}")


if __name__ == "__main__":
    main()
