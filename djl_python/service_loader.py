# SPDX-License-Identifier: Apache-2.0
"""Executes a `model.py` and finds functions in it.

A file is executed once per load, as a module of its own that the registry of modules knows by a private name. It is a
package too, whose folder is the model directory, so that `from . import helper` works.
"""

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from djl_python.inputs import Input


class ModelService:
    """A loaded `model.py`.

    Attributes:
        module: the executed module.
        model_dir: what handlers find as their `model_dir` property.
    """

    def __init__(self, module: ModuleType, model_dir: str):
        self.module = module
        self.model_dir = model_dir

    def invoke_handler(self, function_name: str, inputs: Input) -> Any:
        """Calls a function of the module.

        Raises:
            AttributeError: the module has no such function.
        """
        inputs.properties["model_dir"] = self.model_dir
        return getattr(self.module, function_name)(inputs)

    async def invoke_handler_async(self, function_name: str, inputs: Input) -> Any:
        """Calls a function of the module, and awaits what it returns where that can be awaited.

        Raises:
            AttributeError: the module has no such function.
        """
        result = self.invoke_handler(function_name, inputs)
        return await result if hasattr(result, "__await__") else result


def load_model_service(
    model_dir: str, entry_point: str, device_id: Any = None, namespace: str | None = None
) -> ModelService:
    """Executes a file, or imports a module.

    Args:
        model_dir: the model directory.
        entry_point: a path that ends in `.py`, relative to `model_dir` or absolute; else a module's dotted name.
        device_id: accepted because LMI's callers pass it; nothing is done with it.
        namespace: begins the private name of the module in place of `model`.

    Raises:
        ValueError: there is no such file.
        Exception: whatever the module raised.
    """
    if entry_point.endswith(".py"):
        path = os.path.abspath(os.path.join(model_dir, entry_point))
        return ModelService(execute_file(path, os.path.abspath(model_dir), namespace or "model"), model_dir)
    import importlib

    return ModelService(importlib.import_module(entry_point), model_dir)


def has_function_in_module(module: ModuleType, func_name: str) -> bool:
    """The module has something of this name that can be called."""
    return callable(getattr(module, func_name, None))


def find_decorated_function(module: ModuleType, decorator_attribute: str) -> Callable[..., Any] | None:
    """The first function, in alphabetical order of names, with this mark; or None."""
    for name in dir(module):
        found = getattr(module, name)
        if callable(found) and getattr(found, decorator_attribute, None) is True:
            return found  # type: ignore[no-any-return]  # of a module that mypy does not know
    return None


def get_annotated_function(
    model_dir: str, decorator_attribute: str, namespace: str | None = None
) -> Callable[..., Any] | None:
    """The function of the directory's `model.py` with this mark; None also where loading raised a ValueError.

    Raises:
        Exception: whatever else the module raised.
    """
    try:
        service = load_model_service(model_dir, "model.py", -1, namespace)
    except ValueError:
        return None
    return find_decorated_function(service.module, decorator_attribute)


def is_valid_dir(path: str) -> str:
    """The path itself, for an argument parser.

    Raises:
        ValueError: it is not a folder.
    """
    if not os.path.isdir(path):
        raise ValueError(f"{path} is not a directory")
    return path


def execute_file(path: str, model_dir: str, prefix: str = "model") -> ModuleType:
    """The module of a file, executed once under a private name; what failed to load leaves nothing behind.

    Args:
        path: of the file.
        model_dir: where relative imports look, before they do so beside the file.
        prefix: begins the private name.

    Raises:
        ValueError: there is no such file.
        ImportError: the file is not a Python file.
        Exception: whatever the module raised.
    """
    from importlib.machinery import SourceFileLoader
    from importlib.util import module_from_spec, spec_from_file_location

    if not os.path.isfile(path):
        raise ValueError(f"entry-point file not found {path}.")
    name = _private_name(path, prefix)
    places = list(dict.fromkeys([model_dir, os.path.dirname(path)]))
    spec = spec_from_file_location(name, path, submodule_search_locations=places)
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        raise ImportError(f"{path} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        # Not `exec_module`: its cache takes a file for unchanged that was saved in the same second with the same size.
        exec(spec.loader.source_to_code(spec.loader.get_data(path), path), module.__dict__)
    except BaseException:
        forget(name)
        raise
    return module


def forget(module: str) -> None:
    """Takes an executed module, and what was imported relative to it, out of the registry of modules."""
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        del sys.modules[name]


def _private_name(path: str, prefix: str) -> str:
    """A module name that no other load has, made from the whole path, and a number where that is taken."""
    from hashlib import md5

    readable = "".join(char if char.isalnum() else "_" for char in prefix)
    name = f"{readable}_{md5(f'{prefix}:{path}'.encode(), usedforsecurity=False).hexdigest()[:8]}"
    free, number = name, 1
    while free in sys.modules:
        number += 1
        free = f"{name}_{number}"
    return free
