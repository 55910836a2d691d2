# SPDX-License-Identifier: Apache-2.0
"""The embedded demo model: its directory and the sentences it has learned by heart.

`lmi serve --demo` serves `MODEL_DIR`, and the tests compare what the engine
generates with `answers()`. `python -m serving.demo.train` makes the model again
from `answers.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

ANSWERS_FILE: Path = Path(__file__).resolve().parent / "answers.json"
MODEL_DIR: Path = Path(__file__).resolve().parent / "model"
ADAPTERS_DIR: Path = MODEL_DIR / "adapters"


def answers(adapter: str | None = None) -> dict[str, str]:
    """Return what the demo model answers, word for word, under greedy decoding.

    Args:
        adapter: Name of a LoRA adapter under ``ADAPTERS_DIR``, or None for the model without one.

    Returns:
        A dictionary from question to answer, in the order of ``answers.json``.

    Raises:
        KeyError: If there is no adapter of that name.
    """
    sections: dict[str, dict[str, str]] = json.loads(ANSWERS_FILE.read_text(encoding="utf-8"))
    base = sections.pop("base")
    return base if adapter is None else sections[adapter]


def adapter_names() -> list[str]:
    """Return the names of the demo model's LoRA adapters, in the order of ``answers.json``."""
    sections: dict[str, dict[str, str]] = json.loads(ANSWERS_FILE.read_text(encoding="utf-8"))
    return [name for name in sections if name != "base"]
