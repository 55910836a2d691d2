# SPDX-License-Identifier: Apache-2.0
"""How many accelerators the engine takes, against how many are there. Called by `resolve.py`."""

from collections.abc import Mapping
from typing import Any, Literal

from serving.config.host import Host
from serving.errors import ConfigError, Problem

_BEYOND_THIS_COUNT = frozenset({
    "data_parallel_backend",
    "data_parallel_size_local",
    "distributed_executor_backend",
    "nnodes",
    "prefill_context_parallel_size",
})  # fmt: skip
"""Arguments of vLLM that spread the engine over machines, or in another dimension: vLLM is the judge then."""


def tensor_parallel_size(degree: int | Literal["max"], stages: int, passed: Mapping[str, Any], host: Host) -> int:
    """`degree` as a number; `max` leaves room for the stages, and for the copies in `passed`, and is 1 on a CPU."""
    if degree != "max":
        return degree
    return max(host.device_count // max(stages * _copies(passed), 1), 1)


def check(values: Mapping[str, Any], host: Host, warnings: list[str]) -> None:
    """Adds a warning for accelerators that stay idle, with the line that would use them.

    Raises:
        ConfigError: more are asked for than there are (`CAPACITY`), or what a CPU cannot do (`UNSUPPORTED`).
    """
    if host.device_count == 0 and values["pipeline_parallel_size"] > 1:
        text = f"pipeline_parallel_degree={values['pipeline_parallel_size']} needs GPUs"
        remedy = "leave it out: with it, vLLM's CPU engine dies at the first request"
        raise ConfigError([Problem("UNSUPPORTED", text, remedy=remedy)])
    if host.device_count == 0 or _BEYOND_THIS_COUNT & values.keys():
        return
    tensor, stages, copies = values["tensor_parallel_size"], values["pipeline_parallel_size"], _copies(values)
    idle = host.device_count - tensor * stages * copies
    if idle < 0:
        text = (
            f"tensor_parallel_degree={tensor} x pipeline_parallel_degree={stages} x data_parallel_size={copies} needs "
            f"{tensor * stages * copies} GPUs, {host.device_count} are visible"
        )
        raise ConfigError([Problem("CAPACITY", text, remedy="lower one of them")])
    if idle:
        possible = host.device_count // (tensor * stages)
        use = f"option.data_parallel_size={possible}" if possible > copies else "option.tensor_parallel_degree=max"
        names = ", ".join(str(number) for number in range(host.device_count - idle, host.device_count))
        warnings.append(f"idle: GPU {names} of {host.device_count}; {use} would use more")


def _copies(values: Mapping[str, Any]) -> int:
    copies: int = values.get("data_parallel_size", 1)
    return copies
