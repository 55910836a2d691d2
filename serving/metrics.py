# SPDX-License-Identifier: Apache-2.0
"""Our own collectors, beside vLLM's in the same registry; `/metrics` shows both."""

from prometheus_client import Counter

CUSTOM_HANDLER_FALLBACK = Counter(
    "lmi_custom_handler_fallback",
    "Requests that the default handler answered because the custom one failed, by reason.",
    ["reason"],
)
CUSTOM_HANDLER_DEATHS = Counter(
    "lmi_custom_handler_deaths", "Unexpected ends of the process that runs the custom handler."
)
