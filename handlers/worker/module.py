# SPDX-License-Identifier: Apache-2.0
"""Executes a user's file as a module of its own name; standard library only. Used in the worker process."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(file: str, module: str | None, directory: str) -> ModuleType:
    """The module, executed once.

    Args:
        file: the file to execute.
        module: its dotted name if it is to be imported by that; otherwise it gets a private one, and siblings in
            `directory` can be imported absolutely and relatively.
        directory: the model directory.

    Raises:
        Exception: whatever its body raises.
    """
    if module is not None:
        return importlib.import_module(module)
    package = "lmi_model"
    holder = ModuleType(package)
    holder.__path__ = [directory, str(Path(file).parent)]
    sys.modules[package] = holder
    name = f"{package}.{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded
