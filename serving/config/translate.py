# SPDX-License-Identifier: Apache-2.0
"""LMI's options in vLLM's words. Called by `resolve.py` once every value is typed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.config import devices
from serving.config.host import Host
from serving.config.mode import EMBEDDING_TASKS
from serving.config.options import LmiOptions, engine_values
from serving.errors import ConfigError, Problem

_TASKS: Mapping[str, Mapping[str, str]] = {
    "auto": {},
    "text-generation": {"runner": "generate"},
    "generate": {"runner": "generate"},
    "text-embedding": {"convert": "embed"},
    "feature-extraction": {"runner": "pooling", "convert": "embed"},
    "classify": {"convert": "classify"},
}
"""LMI's tasks as vLLM's `runner` and `convert`; what is not set stays `auto`."""


def engine_arguments(
    lmi: LmiOptions, model: str, passed: Mapping[str, Any], host: Host, warnings: list[str]
) -> dict[str, Any]:
    """Every vLLM argument that LMI's options decide.

    Args:
        lmi: the options.
        model: Hugging Face id or directory.
        passed: vLLM's own arguments, which no option stands for.
        host: the machine.
        warnings: is added to.

    Raises:
        ConfigError: two options contradict each other (`CONFLICT`).
    """
    return {
        **engine_values(lmi),
        **_task(lmi.task, passed, warnings),
        **_pooler(lmi, passed),
        "model": model,
        "quantization": _quantization(lmi, model, host, warnings),
        "tensor_parallel_size": devices.tensor_parallel_size(
            lmi.tensor_parallel_degree, lmi.pipeline_parallel_degree, passed, host
        ),
    }


def _pooler(lmi: LmiOptions, passed: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's pooler, told not to normalize where the user said so; what is no object is left to vLLM to refuse."""
    given = passed.get("pooler_config", {})
    if lmi.normalize or lmi.task not in EMBEDDING_TASKS or not isinstance(given, dict):
        return {}
    return {"pooler_config": {**given, "use_activation": False}}


def _task(task: str, passed: Mapping[str, Any], warnings: list[str]) -> dict[str, str]:
    """vLLM's `runner` and `convert` for LMI's task; what the user set by those names wins."""
    known = _TASKS.get(task)
    if known is None:
        warnings.append(f"task={task} is not one of {', '.join(_TASKS)}; the model's own task is served")
        return {}
    for name in known.keys() & passed.keys():
        if passed[name] != known[name]:
            warnings.append(f"{name}={passed[name]} wins over task={task}, which means {name}={known[name]}")
    return {name: value for name, value in known.items() if name not in passed}


def _quantization(lmi: LmiOptions, model: str, host: Host, warnings: list[str]) -> str | None:
    """vLLM's name of the method to quantize with at load, or None."""
    method = lmi.quantize
    for name, wanted in (("load_in_8bit", "bitsandbytes8"), ("load_in_4bit", "bitsandbytes4")):
        if not getattr(lmi, name):
            continue
        if method not in (None, "bitsandbytes", wanted):
            text = f"{name}=true and quantize={method} ask for different methods"
            raise ConfigError([Problem("CONFLICT", text, remedy="keep one of the two")])
        warnings.append(f"{name}=true is an older spelling of quantize={wanted}")
        method = wanted
    if method in ("bitsandbytes4", "bitsandbytes8"):
        rest = "; vLLM does not load in 8 bits, it quantizes to 4" if method == "bitsandbytes8" else ""
        warnings.append(f"quantize={method} is read as quantize=bitsandbytes{rest}")
        method = "bitsandbytes"
    if method is not None and (present := checkpoint_quantization(host.path(model))) is not None:
        warnings.append(
            f"the model is already quantized ({present}): leave quantize={lmi.quantize or method} out, so that vLLM "
            "reads the method from the model and is free to choose its fastest kernels"
        )
    elif method == "fp8" and host.device_count == 0:
        warnings.append("quantize=fp8 is fp8_per_channel on CPU")
        return "fp8_per_channel"
    return method


def checkpoint_quantization(directory: Path) -> str | None:
    """The method a checkpoint was quantized with ahead of time, as its own files say; None for a plain one."""
    for file, path in (
        ("config.json", ("quantization_config", "quant_method")),
        ("config.json", ("compression_config", "quant_method")),
        ("hf_quant_config.json", ("quantization", "quant_algo")),
    ):
        try:
            found = json.loads((directory / file).read_text("utf-8"))
            for key in path:
                found = found[key]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return str(found)
    return None
