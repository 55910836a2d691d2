# SPDX-License-Identifier: Apache-2.0
"""The example of a handler that owns a `vllm.LLM`."""

from pathlib import Path

import httpx
import pytest

from serving import demo
from tests.conftest import ROOT
from tests.e2e.test_4_own_engine import QUESTION, assert_nothing_is_left, serving_with

pytestmark = pytest.mark.long


def test_example(tmp_path: Path) -> None:
    with serving_with(ROOT / "examples/own_engine/model.py", tmp_path / "own_engine") as served:
        answer = httpx.post(f"{served.url}/invocations", json={"inputs": QUESTION}, timeout=60)
        assert answer.status_code == 200
        assert answer.json() == {"generated_text": demo.answers(None)[QUESTION], "handler": "own_engine"}
        assert not any("start-up call failed" in line for line in served.output)
        assert_nothing_is_left(served)
