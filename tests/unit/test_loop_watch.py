# SPDX-License-Identifier: Apache-2.0
"""The watch names what keeps the event loop, and tells for how long."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from serving import loop_watch
from serving.loop_watch import LoopWatch

pytestmark = pytest.mark.pure
STALLS, SECONDS = "lmi_event_loop_stalls_total", "lmi_event_loop_stall_seconds_total"


def slow_formatter(seconds: float) -> None:
    time.sleep(seconds)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopWatch]:
    monkeypatch.setattr(loop_watch, "_BEAT_S", 0.01)
    return LoopWatch(stall_s=0.2)


async def test_names_the_function(watch: LoopWatch, caplog: pytest.LogCaptureFixture) -> None:
    before = REGISTRY.get_sample_value(STALLS), REGISTRY.get_sample_value(SECONDS)
    watch.start()
    await asyncio.sleep(0.05)
    slow_formatter(0.6)
    await asyncio.sleep(0.05)
    watch.stop()
    first, second = [record.getMessage() for record in caplog.records if record.name == "serving.loop_watch"]
    assert first.startswith(f"the event loop is kept from answering by slow_formatter ({__file__}, line ")
    assert "test_names_the_function" in first
    assert second.startswith("the event loop goes on; it was kept for 0.")
    assert REGISTRY.get_sample_value(STALLS) == before[0] + 1
    assert 0.3 < REGISTRY.get_sample_value(SECONDS) - before[1] < 0.9


async def test_says_nothing_of_a_busy_loop(watch: LoopWatch, caplog: pytest.LogCaptureFixture) -> None:
    watch.start()
    for _ in range(10):
        time.sleep(0.05)
        await asyncio.sleep(0.011)
    watch.stop()
    assert [record for record in caplog.records if record.name == "serving.loop_watch"] == []
