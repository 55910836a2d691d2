# SPDX-License-Identifier: Apache-2.0
"""Draws `results/serving.json`: CPU per streamed token by how many streams there are. Run by `make bench`."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

RESULTS = Path(__file__).parent / "results"
LABELS = {"lmi serve": "lmi serve, /invocations", "vllm serve": "vllm serve, /v1/completions with logprobs=1"}


def main() -> None:
    """Writes `results/serving.svg`."""
    record = json.loads((RESULTS / "serving.json").read_text(encoding="utf-8"))
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, label in LABELS.items():
        cells = record["medians"]["paced"][name]["cells"]
        points = {
            int(words[2].split()[0]): cell["cpu_us_per_token"]
            for words, cell in ((title.split(", "), cell) for title, cell in cells.items())
            if words[:2] == ["lmi", "streamed"] and len(words) == 3
        }
        axes.plot(list(points), list(points.values()), marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(points), [str(count) for count in points])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("streams at once")
    axes.set_ylabel("CPU per token in the server's process (us)")
    axes.set_title(f"{record['machine']}, commit {record['commit']}", fontsize=9)
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "serving.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
