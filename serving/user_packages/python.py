# SPDX-License-Identifier: Apache-2.0
"""Chooses the Python that runs users' code, and where its packages go."""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ConfigError, Problem
from serving.user_packages.environment import environment
from serving.user_packages.installer import install, pins
from serving.user_packages.requirements import Requirements

_WORKER_IMPORTS = """
import sys
if sys.version_info < (3, 11):
    sys.exit("it is Python %d.%d, and 3.11 or newer is needed" % sys.version_info[:2])
import djl_python, msgspec, handlers.worker.child
"""


@dataclass(frozen=True, slots=True)
class UserPython:
    """What runs the user's code.

    Attributes:
        executable: interpreter of the worker process.
        path: directories that the worker's `sys.path` gets in addition, after the model directory.
        api_path: directories to append to this process's `sys.path`, for formatters that need them.
    """

    executable: str
    path: tuple[str, ...] = ()
    api_path: tuple[str, ...] = ()


def prepare(
    model_dir: Path | None,
    *,
    python_executable: str | None,
    enable_venv: bool,
    env: Mapping[str, str],
    has_worker: bool,
    has_formatters: bool,
    warnings: list[str],
) -> UserPython:
    """Installs what the model's `requirements.txt` asks for and says which Python runs the user's code.

    Args:
        model_dir: where `requirements.txt` and the folder `requirements` with its wheels are looked for.
        python_executable: `option.pythonExecutable`.
        enable_venv: `option.enable_venv`.
        env: environment of the processes that are started here, and of the worker.
        has_worker: the user's code has a part that runs in a worker process.
        has_formatters: the user's code has formatters, which run in this process.
        warnings: gets a line for every setting that has no effect.

    Raises:
        ConfigError: a requirement cannot be installed, or the interpreter cannot run the worker.
    """
    given = f"option.pythonExecutable={python_executable}"
    if python_executable and not has_worker:
        warnings.append(f"{given} has no effect: there is no handler that a worker process would run")
    chosen = _checked(python_executable, env) if python_executable and has_worker else None
    has_venv = enable_venv and chosen is None and (has_worker or has_formatters)
    if enable_venv and not has_venv:
        why = f" beside {given}, which runs the handler" if chosen else ": there is no handler and no formatter"
        warnings.append(f"option.enable_venv has no effect{why}")
    requirements = Requirements.read(model_dir)
    if chosen and chosen != sys.executable:
        if requirements.lines:
            install(requirements, chosen, env, [])
        # Formatters get the same packages for the server's own interpreter.
        return UserPython(chosen, (), _server_path(requirements, env) if has_formatters else ())
    if has_venv:
        executable, site = environment(requirements, env)
        return UserPython(executable, (), (site,) if has_formatters else ())
    path = _server_path(requirements, env)
    # Without a worker, what asks for packages is in this process: formatters, or modeling code beside the weights.
    return UserPython(sys.executable, path, path if has_formatters or not has_worker else ())


def _checked(chosen: str, env: Mapping[str, str]) -> str:
    """The path of an interpreter that can run the worker; `sys.executable` for the server's, however it is named."""
    found = os.path.abspath(shutil.which(os.path.expanduser(chosen), path=env.get("PATH")) or chosen)
    command, safe = [found, "-c", _WORKER_IMPORTS], {**env, "PYTHONSAFEPATH": "1"}  # as -P does
    try:
        subprocess.run(command, env=safe, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else ""
        reason = said.splitlines()[-1] if said else str(error)
        text = f"option.pythonExecutable={chosen!r} cannot run the handler: {reason}"
        remedy = "name an interpreter that this server is installed for, or use option.enable_venv"
        raise ConfigError([Problem("VALIDATION", text, "", remedy)]) from None
    is_server = os.path.samefile(found, sys.executable) and Path(found).parent.samefile(Path(sys.executable).parent)
    return sys.executable if is_server else found


def _server_path(requirements: Requirements, env: Mapping[str, str]) -> tuple[str, ...]:
    """Installs for the server's interpreter; returns the directories its `sys.path` needs, none for its own folder."""
    if requirements.are_satisfied():
        return ()
    if not _is_writable():
        return (environment(requirements, env)[1],)
    install(requirements, sys.executable, env, pins())
    importlib.invalidate_caches()
    return ()


def _is_writable() -> bool:
    """Packages can be added to the server's own ones."""
    site, stdlib = map(sysconfig.get_path, ("purelib", "stdlib"))
    is_managed = sys.prefix == sys.base_prefix and Path(stdlib, "EXTERNALLY-MANAGED").exists()
    return os.access(site, os.W_OK) and not is_managed
