# SPDX-License-Identifier: Apache-2.0
"""An executable called `vllm` whose `serve` is this server, and whose other subcommands are vLLM's own.

Programs such as kani's engines start `vllm serve` themselves, by whatever is first on their PATH. Used by `cli.py`.
"""

import sys
from pathlib import Path

_SCRIPT = """#!{python}
# Made by `lmi install-vllm-shim`.
from serving.cli import vllm_main

if __name__ == "__main__":  # the engine's processes read this file, too
    vllm_main()
"""


def install(directory: Path) -> Path:
    """Writes the executable into `directory`, in place of one that is there; returns its path."""
    path = directory / "vllm"
    path.write_text(_SCRIPT.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path
