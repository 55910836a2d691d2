# SPDX-License-Identifier: Apache-2.0
"""Virtual environments with a model's packages before the server's, each built once.

For `option.enable_venv`, and for a server whose own packages cannot be added to.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from serving.downloads import cache_directory
from serving.errors import ConfigError, Problem
from serving.user_packages.installer import install, pins, sources
from serving.user_packages.requirements import Requirements


def environment(requirements: Requirements, env: Mapping[str, str]) -> tuple[str, str]:
    """The environment for just these requirements, which is built if no earlier start did.

    Returns:
        Its interpreter, and its folder of packages.

    Raises:
        ConfigError: a requirement cannot be installed, or the environment cannot be made.
    """
    name = requirements.fingerprint(sys.executable, sys.version, *pins(), *sources(requirements, env))
    folder = Path(env.get("DJL_VENV_DIR") or _cache(env) / "venv", name).absolute()
    python, done = folder / "bin" / "python", folder / "lmi-server.done"
    site = folder / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{folder}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.is_file():
                command = [sys.executable, "-P", "-m", "venv", "--without-pip", "--clear", str(folder)]
                subprocess.run(command, check=True, capture_output=True)
                (site / "lmi-server.pth").write_text(_server_packages(), "utf-8")
                if not requirements.are_satisfied():
                    install(requirements, str(python), env, pins())
                done.touch()
    except (OSError, subprocess.CalledProcessError) as error:
        text = f"cannot make a virtual environment in {folder}: {error}"
        remedy = "set DJL_VENV_DIR to a directory that can be written"
        raise ConfigError([Problem("VALIDATION", text, "", remedy)]) from None
    return str(python), str(site)


def _server_packages() -> str:
    """A .pth file that puts them behind the environment's own.

    "System site packages" would be those of the interpreter that the server's environment was made from.
    """
    sites = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    root = str(Path(__file__).resolve().parents[2])
    return "\n".join([*(f"import site; site.addsitedir({site!r})" for site in sites), root, ""])


def _cache(env: Mapping[str, str]) -> Path:
    """A folder that can be written; it outlives this process if there is a home for it."""
    folder = cache_directory(env)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="lmi-"))
