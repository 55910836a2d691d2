# SPDX-License-Identifier: Apache-2.0
"""Our own collectors, beside vLLM's in the same registry; `/metrics` shows both."""

from prometheus_client import Counter, Gauge, Histogram

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
