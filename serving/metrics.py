# SPDX-License-Identifier: Apache-2.0
"""Our own collectors, beside vLLM's in the same registry; `/metrics` shows both."""

from prometheus_client import Counter, Gauge, Histogram

PROBES = frozenset({
    *("/ping", "/health", "/live", "/ready", "/startup", "/v2/health/live", "/v2/health/ready", "/metrics"),
})  # fmt: skip
"""Paths of probes and scrapers, which bring no key and are not what a server is for."""
REQUESTS = Counter("lmi_requests", "Answers, by route and status; 499: the client left.", ["route", "status"])
REQUEST_DURATION_SECONDS = Histogram(
    "lmi_request_duration_seconds",
    "From a request's head to the last byte of its answer, by family of routes.",
    ["family"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250),
)
REQUEST_OVERHEAD_SECONDS = Histogram(
    "lmi_request_overhead_seconds",
    "The server's own time per request: from its body to the engine, and from the first output to the client.",
    ["family"],
    buckets=(0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.5, 1),
)
REQUESTS_REFUSED = Counter("lmi_requests_refused", "Requests for the engine that there was no room for.")
REQUESTS_IN_FLIGHT = Gauge("lmi_requests_in_flight", "Requests that are under way in the engine or a custom handler.")
TOOL_REQUESTS = Counter("lmi_tool_requests", "Requests with tools, by what reads the calls.", ["mode"])
EVENT_LOOP_STALLS = Counter("lmi_event_loop_stalls", "How often something kept the event loop from its other work.")
EVENT_LOOP_STALL_SECONDS = Counter("lmi_event_loop_stall_seconds", "How long it was kept, in all.")
READY_SECONDS = Gauge("lmi_ready_seconds", "From the process's begin until the server was ready.")
START_SECONDS = Gauge("lmi_start_seconds", "Where the time of the start went, by phase.", ["phase"])
CUSTOM_HANDLER_FALLBACK = Counter(
    "lmi_custom_handler_fallback",
    "Requests that the default handler answered because the custom one failed, by reason.",
    ["reason"],
)
CUSTOM_HANDLER_DEATHS = Counter(
    "lmi_custom_handler_deaths", "Unexpected ends of the process that runs the custom handler."
)
ADAPTER_LOADS = Counter("lmi_adapter_loads", "Loads of LoRA adapters, by outcome.", ["outcome"])
ADAPTER_LOAD_SECONDS = Histogram(
    "lmi_adapter_load_seconds",
    "Time that it took to load a LoRA adapter: the check of its files, the engine.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
)
ADAPTER_REQUESTS = Counter("lmi_adapter_requests", "Requests that the engine worked on, by LoRA adapter.", ["adapter"])
ADAPTER_REQUESTS_WAITING = Gauge(
    "lmi_adapter_requests_waiting", "Requests that wait for a slot because the others are taken by pinned adapters."
)

for _reason in ("load_error", "runtime_error", "invalid_return", "worker_died"):
    CUSTOM_HANDLER_FALLBACK.labels(_reason)  # a series that is there from the start does not hide its first event
for _outcome in ("loaded", "failed"):
    ADAPTER_LOADS.labels(_outcome)
