# SPDX-License-Identifier: Apache-2.0
"""How much the server takes on and how long it waits, from the options that say so.

Made by `resolve.py`, kept by `serving/engine/gate.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.config.options import LmiOptions, ServerSettings


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what is in flight; they hold for every route family together.

    Attributes:
        num_in_flight: requests that may be in the engine or wait for it; the next one is refused.
        first_output_s: seconds until the first output of a request; without stream that is the whole answer.
        gap_s: seconds between two outputs of a stream.
        start_s: seconds until the engine must be ready.
    """

    num_in_flight: int
    first_output_s: float
    gap_s: float
    start_s: float


def limits(options: LmiOptions, server: ServerSettings, values: Mapping[str, Any]) -> Limits:
    """The limits that LMI's options mean; `values` are vLLM's arguments."""
    running = options.max_rolling_batch_size * values.get("data_parallel_size", 1)
    waits = [options.predict_timeout]
    if "chunked_read_timeout" in server.model_fields_set:
        waits.append(server.chunked_read_timeout)
    return Limits(
        num_in_flight=server.job_queue_size + running,
        first_output_s=min(waits),
        gap_s=server.chunked_read_timeout,
        start_s=options.model_loading_timeout,
    )
