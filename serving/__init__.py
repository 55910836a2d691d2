# SPDX-License-Identifier: Apache-2.0
"""LMI Server: AWS LMI's serving contract on vLLM's async engine. `docs/architecture.md` is the map.

Programs import from here what starts servers; it is loaded on first use, so that `import serving` costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.server_process import ServerProcess, StartFailed, all_ready

__all__ = ["ServerProcess", "StartFailed", "all_ready"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from serving import server_process

        return getattr(server_process, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
