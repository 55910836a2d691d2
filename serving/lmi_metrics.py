# SPDX-License-Identifier: Apache-2.0
"""LMI's names for what our metrics and vLLM's count: a view of the same collectors, for `/server/metrics`.

Durations are microseconds there. What LMI counts and has no counterpart in one process of one model is not there.
"""

import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from serving.metrics import PROBES

_MICROSECONDS = 1_000_000
_REQUESTS = "lmi_requests_total"
_DURATIONS = "lmi_request_duration_seconds"
_QUEUE_TIMES = "vllm:request_queue_time_seconds"
_START, _READY = "lmi_start_seconds", "lmi_ready_seconds"
_REFUSED = "lmi_requests_refused_total"


def text(model_name: str, names: Collection[str] = (), registry: CollectorRegistry = REGISTRY) -> bytes:
    """The metrics in Prometheus' text format; those with one of `names` where any are given.

    Args:
        model_name: the endpoint's name.
        names: LMI's, without `_total`.
        registry: where ours and vLLM's are.
    """
    shown = CollectorRegistry(auto_describe=False)
    shown.register(_View(model_name, frozenset(names), registry))
    return generate_latest(shown)


@dataclass(frozen=True)
class _View(Collector):
    model_name: str
    names: frozenset[str]
    registry: CollectorRegistry

    def collect(self) -> Iterator[Metric]:
        samples = [sample for metric in self.registry.collect() for sample in metric.samples]
        host = [socket.gethostname()]
        yield from self._named(_counter("DJLServingStart", "Version", [version("lmi-server")], 1))
        ready_s = sum(sample.value for sample in samples if sample.name == _READY)
        yield from self._named(_gauge("StartupLatency", "Host", host, ready_s * _MICROSECONDS))
        answers = [sample for sample in samples if sample.name == _REQUESTS and sample.labels["route"] not in PROBES]
        for name, fits in _BY_STATUS.items():
            count = sum(sample.value for sample in answers if fits(int(sample.labels["status"])))
            yield from self._named(_counter(name, "Host", host, count))
        refused = sum(sample.value for sample in samples if sample.name == _REFUSED)
        yield from self._named(_counter("WlmError", "Host", host, refused))
        loading = [sample.value for sample in samples if sample.name == _START and sample.labels["phase"] == "engine"]
        yield from self._named(_gauge("LoadModel", "Model", [self.model_name], sum(loading) * _MICROSECONDS))
        for name, source in (("RequestLatency", _DURATIONS), ("QueueTime", _QUEUE_TIMES)):
            yield from self._named(_histogram(name, self.model_name, source, samples))

    def _named(self, metric: Metric) -> Iterator[Metric]:
        if not self.names or metric.name in self.names:
            yield metric


_BY_STATUS: dict[str, Callable[[int], bool]] = {
    "Response_2XX": lambda status: 200 <= status < 300,
    "Response_4XX": lambda status: 400 <= status < 499,  # 499 was never sent
    "Response_5XX": lambda status: status >= 500,
    "ServerError": lambda status: status == 500,
}
"""Counter to the statuses that it counts."""


def _help(kind: str, unit: str) -> str:
    return f": prometheus {kind} metric, unit: {unit}"


def _counter(name: str, label: str, values: list[str], count: float) -> Metric:
    family = CounterMetricFamily(name, _help("counter", "Count"), labels=[label])
    family.add_metric(values, count)
    return family


def _gauge(name: str, label: str, values: list[str], value: float) -> Metric:
    family = GaugeMetricFamily(name, _help("gauge", "Microseconds"), labels=[label])
    family.add_metric(values, value)
    return family


def _histogram(name: str, model_name: str, source: str, samples: Iterable[Sample]) -> Metric:
    """One of seconds over all its labels, in microseconds."""
    bounds: dict[float, float] = {}
    total_s = 0.0
    for sample in samples:
        if sample.name == f"{source}_bucket":
            bound = float(sample.labels["le"])
            bounds[bound] = bounds.get(bound, 0.0) + sample.value
        elif sample.name == f"{source}_sum":
            total_s += sample.value
    buckets = [(str(bound * _MICROSECONDS).replace("inf", "+Inf"), count) for bound, count in sorted(bounds.items())]
    family = HistogramMetricFamily(name, _help("histogram", "Microseconds"), labels=["Model"])
    if buckets:
        family.add_metric([model_name], buckets, total_s * _MICROSECONDS)
    return family
