# SPDX-License-Identifier: Apache-2.0
"""LMI's names for what ours and vLLM's collectors count."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving import lmi_metrics

pytestmark = pytest.mark.pure


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    requests = Counter("lmi_requests", "x", ["route", "status"], registry=registry)
    for route, status, count in (("/a", 200, 3), ("/b", 200, 1), ("/a", 424, 2), ("/a", 503, 1), ("/a", 500, 1)):
        requests.labels(route, status).inc(count)
    durations = Histogram("lmi_request_duration_seconds", "x", ["family"], buckets=(0.5, 1), registry=registry)
    for family, seconds in (("lmi", 0.25), ("tgi", 0.75), ("openai", 5)):
        durations.labels(family).observe(seconds)
    requests.labels("/ready", 503).inc(7)
    requests.labels("/a", 499).inc(3)
    Counter("lmi_requests_refused", "x", registry=registry).inc(4)
    Gauge("lmi_ready_seconds", "x", registry=registry).set(3.5)
    start = Gauge("lmi_start_seconds", "x", ["phase"], registry=registry)
    start.labels("imports").set(1.5)
    start.labels("engine").set(2)
    return registry


def samples(text: bytes) -> dict[str, float]:
    rows = [line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


def test_counts_and_durations(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmi_metrics.socket, "gethostname", lambda: "h")
    found = samples(lmi_metrics.text("m", registry=registry))
    assert found.pop('DJLServingStart_total{Version="0.1.0"}') == 1
    assert found == {
        'StartupLatency{Host="h"}': 3_500_000,
        'Response_2XX_total{Host="h"}': 4,
        'Response_4XX_total{Host="h"}': 2,
        'Response_5XX_total{Host="h"}': 2,
        'WlmError_total{Host="h"}': 4,
        'ServerError_total{Host="h"}': 1,
        'LoadModel{Model="m"}': 2_000_000,
        'RequestLatency_bucket{Model="m",le="500000.0"}': 1,
        'RequestLatency_bucket{Model="m",le="1000000.0"}': 2,
        'RequestLatency_bucket{Model="m",le="+Inf"}': 3,
        'RequestLatency_count{Model="m"}': 3,
        'RequestLatency_sum{Model="m"}': 6_000_000,
    }


def test_names(registry: CollectorRegistry) -> None:
    text = lmi_metrics.text("m", ["LoadModel", "Response_2XX"], registry)
    assert b"# HELP LoadModel : prometheus gauge metric, unit: Microseconds\n" in text
    assert [name.partition("{")[0] for name in samples(text)] == ["Response_2XX_total", "LoadModel"]
