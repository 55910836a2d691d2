# SPDX-License-Identifier: Apache-2.0
"""What a request hears that there is no room for: one sentence and one count, wherever the room is missing."""

from serving import metrics
from serving.errors import EngineOverloaded


def refused(model_name: str) -> EngineOverloaded:
    """Counts a request for the endpoint `model_name` as refused; the error that it is to be answered with."""
    metrics.REQUESTS_REFUSED.inc()
    return EngineOverloaded(f"Worker queue capacity exceeded for model: {model_name}")
