# SPDX-License-Identifier: Apache-2.0
"""Where the time of a start went."""

import time

import pytest
from prometheus_client import REGISTRY

from serving.ledger import Ledger

pytestmark = pytest.mark.pure


def test_phases() -> None:
    ledger = Ledger()
    for _ in range(2):
        with ledger.phase("one"):
            time.sleep(0.06)
            with ledger.phase("inside"):
                time.sleep(0.06)
    with pytest.raises(ValueError, match="x"), ledger.phase("two"):
        raise ValueError("x")
    before = ledger.total_s
    text = ledger.close()
    assert text.startswith("Python ")
    assert "inside" not in text
    assert "two" not in text
    seconds = {
        phase: REGISTRY.get_sample_value("lmi_start_seconds", {"phase": phase})
        for phase in ("Python", "one", "two", "other")
    }
    assert 0.24 <= seconds["one"] < 2
    assert before <= sum(seconds.values()) <= ledger.total_s + 0.001
