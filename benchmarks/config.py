# SPDX-License-Identifier: Apache-2.0
"""What resolving costs: a thousand configurations in one process, and `lmi config` as a command.

`make bench-config`. Writes `results/config.json` and prints the table for `results/config.md`.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from serving import demo
from serving.config.host import Host
from serving.config.resolve import resolve
from tests.conformance.cases import cases
from tests.conformance.test_configuration import fetched, prepared

RESULTS = Path(__file__).parent / "results"
NUM_RESOLVED, NUM_COMMANDS = 1000, 7


def resolve_s() -> float:
    """Seconds for a thousand configurations of the contract, those that are refused left out."""
    accepted = [case for case in cases("configuration", "fake") if "error" not in case.expect]
    with tempfile.TemporaryDirectory() as folder:
        given = []
        for number in range(NUM_RESOLVED):
            case, root = accepted[number % len(accepted)], Path(folder, str(number))
            root.mkdir()
            host = Host(device_count=case.given.get("gpus", 1), root=root, fetch=fetched)
            given.append((*prepared(case.given, host), host))
        began = time.perf_counter()
        for env, argv, host in given:
            resolve(env, argv, host, demo.MODEL_DIR)
        return time.perf_counter() - began


def command_s() -> float:
    """Median seconds of `lmi config --demo`."""
    times = []
    for _ in range(NUM_COMMANDS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "serving", "config", "--demo"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Measures, prints the table, writes the record."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    record = {
        "resolve_1000_s": round(resolve_s(), 3),
        "lmi_config_s": round(command_s(), 3),
        "commit": commit,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    (RESULTS / "config.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"| what | seconds |\n|---|---:|\n| 1,000 configurations | {record['resolve_1000_s']:.2f} |")
    print(f"| `lmi config --demo` | {record['lmi_config_s']:.2f} |")


if __name__ == "__main__":
    main()
