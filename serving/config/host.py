# SPDX-License-Identifier: Apache-2.0
"""What configuration may ask of the machine it runs on: its files, accelerators and memory.

`cli.py` hands in `Host.local()`; tests hand in a `Host` of their own, so that resolving stays a pure function.
"""

import os
import re
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Host:
    """The machine as configuration sees it.

    Attributes:
        device_count: visible accelerators; 0 means that the CPU computes.
        memory_bytes: memory that may be used now.
        can_compile: a C++ compiler and Python's headers are there (vLLM compiles kernels on CPU at start).
        root: what absolute paths are looked up under.
    """

    device_count: int = 0
    memory_bytes: int = 16 * _GIB
    can_compile: bool = True
    root: Path = Path("/")

    @classmethod
    def local(cls, env: Mapping[str, str]) -> "Host":
        """The machine this process runs on; reads `CUDA_VISIBLE_DEVICES` and `CXX` from `env`."""
        return cls(
            device_count=_visible_gpus(env.get("CUDA_VISIBLE_DEVICES")),
            memory_bytes=_available_memory(),
            can_compile=shutil.which(env.get("CXX") or "g++", path=env.get("PATH")) is not None
            and Path(sysconfig.get_path("include"), "Python.h").is_file(),
        )

    def path(self, text: str) -> Path:
        """Where `text` is below `root`: absolute, without `..`; `~` is the home directory."""
        return self.root / Path(absolute(text)).relative_to("/")


def absolute(text: str) -> str:
    """`text` as an absolute path without `.`, `..` and `~`; symbolic links stay."""
    return os.path.abspath(os.path.expanduser(text))


def _visible_gpus(visible: str | None) -> int:
    present = sum(1 for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name))
    if visible is None:
        return present
    return min(present, len([entry for entry in visible.split(",") if entry.strip() not in ("", "-1")]))


def _available_memory() -> int:
    """Bytes that can be had without swapping, within the control group's limit."""
    available = 16 * _GIB
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text("ascii").strip()).isdigit():
        used = Path("/sys/fs/cgroup/memory.current")
        available = min(available, int(text) - (int(used.read_text("ascii")) if used.exists() else 0))
    return available
