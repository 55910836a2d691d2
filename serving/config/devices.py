# SPDX-License-Identifier: Apache-2.0
"""How many accelerators the engine takes, against how many are there. Called by `resolve.py`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from serving.config.host import Host
from serving.config.options import LmiOptions, ServerSettings
from serving.errors import ConfigError, Problem

_BEYOND_THIS_COUNT = frozenset({
    "data_parallel_backend",
    "data_parallel_size_local",
    "distributed_executor_backend",
    "nnodes",
    "prefill_context_parallel_size",
})  # fmt: skip
"""Arguments of vLLM that spread the engine over machines, or in another dimension: vLLM is the judge then."""

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Names of the number of experts in models' configurations."""


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


def copies(server: ServerSettings, lmi: LmiOptions, values: Mapping[str, Any], host: Host, warnings: list[str]) -> int:
    """How many copies of the model `maxWorkers` asks for and the GPUs allow; at least 1.

    `values` are vLLM's arguments; only dense models are copied, and none that has adapters.

    Raises:
        ConfigError: the keys contradict each other (`CONFLICT`).
    """
    least, most = _workers(server, host)
    if most == 0 or (least is not None and most is not None and least > most):
        text = f"minWorkers={least} and maxWorkers={most} leave no number of copies" if most else "maxWorkers=0"
        raise ConfigError([Problem("CONFLICT", text, remedy="set maxWorkers to 1, or to the copies you want")])
    if most is None or most == 1 or lmi.enable_lora or "load_on_devices" in server.model_fields_set:
        return 1
    possible: int = max(host.device_count // (values["tensor_parallel_size"] * values["pipeline_parallel_size"]), 1)
    if _is_mixture(host.path(values["model"])):
        warnings.append(f"maxWorkers={most} has no effect: the model is a mixture of experts; see data_parallel_size")
        return 1
    if possible < most:
        where = f"{host.device_count} GPUs have room for {possible}" if host.device_count else "a CPU runs one"
        warnings.append(f"maxWorkers={most}: {where}")
    return min(most, possible)


def first_device(server: ServerSettings, host: Host, warnings: list[str]) -> int:
    """The GPU that `load_on_devices` names first, counted from 0; those before it are left to others.

    Raises:
        ConfigError: there is no such GPU (`CAPACITY`), or it asks for the CPU of a machine with GPUs (`UNSUPPORTED`).
    """
    wanted = server.load_on_devices.strip()
    groups = [group.strip() for group in wanted.split(";") if group.strip()]
    if wanted == "*" or host.device_count == 0:
        return 0
    if len(groups) > 1:
        warnings.append(f"load_on_devices={wanted}: one engine starts at {groups[0]}; maxWorkers asks for copies")
    first = groups[0].split("+")[0].removeprefix("gpu").removeprefix("nc")
    if first in ("-1", "cpu"):
        text = f"load_on_devices={wanted}: this build of vLLM computes on GPUs"
        raise ConfigError([Problem("UNSUPPORTED", text, remedy="install the build for CPUs: lmi-server[cpu]")])
    if int(first) >= host.device_count:
        text = f"load_on_devices={wanted}, {host.device_count} GPUs are visible"
        raise ConfigError([Problem("CAPACITY", text, remedy="name one of them, counted from 0")])
    return int(first)


def from_device(first: int, host: Host, env: Mapping[str, str]) -> dict[str, str]:
    """The variable that hides the GPUs before `first`; none where it is the first one."""
    if first == 0:
        return {}
    visible = env.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(host.device_count)))
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[first:])}


def _workers(server: ServerSettings, host: Host) -> tuple[int | None, int | None]:
    """`minWorkers` and `maxWorkers`, those for this kind of device first."""
    if host.device_count:
        own = server.gpu_min_workers, server.gpu_max_workers
    else:
        own = server.cpu_min_workers, server.cpu_max_workers
    least, most = (
        mine if mine is not None else plain
        for mine, plain in zip(own, (server.min_workers, server.max_workers), strict=True)
    )
    return least, most


def _is_mixture(model_dir: Path) -> bool:
    """The model's configuration speaks of experts."""
    try:
        config = json.loads((model_dir / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    text = (config.get("text_config") or config) if isinstance(config, dict) else {}
    counts = [text.get(name) for name in _EXPERTS] if isinstance(text, dict) else []
    return any(isinstance(count, int) and count > 1 for count in counts)


def _copies(values: Mapping[str, Any]) -> int:
    copies: int = values.get("data_parallel_size", 1)
    return copies
