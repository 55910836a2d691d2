# SPDX-License-Identifier: Apache-2.0
"""LMI's options for LMCache: a configuration file, or sizes worked out from the machine. Called by `resolve.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.config.host import Host
from serving.config.options import LmiOptions, ServerSettings
from serving.errors import Problem

_GIB = 1024**3
_DISK = "/tmp/lmcache/"
_WEIGHTS = ("*.safetensors", "*.bin")


def environment(
    lmi: LmiOptions,
    server: ServerSettings,
    values: dict[str, Any],
    model_dir: Path | None,
    host: Host,
    problems: list[Problem],
) -> dict[str, str]:
    """The variables that LMCache reads; with `lmcache_auto_config`, vLLM's connector is added to `values`.

    Half of the memory, and of the disk, that the model leaves free is LMCache's, as in LMI: what remains of the whole
    after twice the model's size, or after a fifth of it where that is more, divided among the GPUs of one copy.
    """
    if lmi.lmcache_config_file is None and not lmi.lmcache_auto_config:
        return {}
    if found := list(_faults(lmi, server, values, model_dir, host)):
        problems.extend(found)
        return {}
    if lmi.lmcache_config_file is not None:
        return {"LMCACHE_CONFIG_FILE": str(_config_file(lmi.lmcache_config_file, model_dir, host))}
    if values.get("kv_transfer_config"):
        text = "lmcache_auto_config=true and kv_transfer_config exclude each other"
        problems.append(Problem("CONFLICT", text, remedy="keep one of the two"))
        return {}
    values["kv_transfer_config"] = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    size = _model_bytes(lmi.model_id or "", host)
    tensor: int = values["tensor_parallel_size"]
    return {
        "LMCACHE_MAX_LOCAL_CPU_SIZE": str(_share(host.memory_bytes, size, tensor)),
        "LMCACHE_MAX_LOCAL_DISK_SIZE": str(_share(host.disk_bytes, size, tensor)),
        "LMCACHE_LOCAL_DISK": f"file://{_DISK}",
        "LMCACHE_ENABLE_LAZY_MEMORY_ALLOCATOR": "true",
        "LMCACHE_EXTRA_CONFIG": '{"use_odirect": true}',
        "PYTHONHASHSEED": "0",
    }


def _faults(
    lmi: LmiOptions, server: ServerSettings, values: Mapping[str, Any], model_dir: Path | None, host: Host
) -> list[Problem]:
    problems = []
    others = {
        "lmcache_config_file": lmi.lmcache_config_file is not None,
        f"maxWorkers={server.max_workers}": (server.max_workers or 1) > 1,
        "enable_expert_parallel=true": bool(values.get("enable_expert_parallel")),
    }
    for other, is_set in others.items():
        if lmi.lmcache_auto_config and is_set:
            text = f"lmcache_auto_config=true and {other} exclude each other"
            problems.append(Problem("CONFLICT", text, remedy="keep one of the two"))
    if problems:
        return problems
    if lmi.lmcache_config_file is not None and not _config_file(lmi.lmcache_config_file, model_dir, host).is_file():
        text = f"lmcache_config_file={lmi.lmcache_config_file!r}: no such file in the model directory"
        return [Problem("NOT_FOUND", text)]
    if lmi.lmcache_auto_config and not _model_bytes(lmi.model_id or "", host):
        text = "lmcache_auto_config=true needs the model's weights in a directory of this machine"
        return [Problem("NOT_FOUND", text, remedy="write a configuration and name it with lmcache_config_file")]
    if not host.has_lmcache:
        return [Problem("UNSUPPORTED", "LMCache is not installed", remedy="pip install lmcache, or drop its options")]
    return []


def _config_file(text: str, model_dir: Path | None, host: Host) -> Path:
    path = Path(text)
    return host.path(text) if path.is_absolute() or model_dir is None else model_dir / path


def _model_bytes(model: str, host: Host) -> int:
    """Size of the weights; 0 where they are not on this machine."""
    for pattern in _WEIGHTS:
        if size := sum(path.stat().st_size for path in host.path(model).glob(pattern)):
            return size
    return 0


def _share(total: int, model: int, tensor_parallel: int) -> int:
    """GiB for each GPU."""
    return max(int((total - max(2 * model, total // 5)) / _GIB) // tensor_parallel, 1)
