# SPDX-License-Identifier: Apache-2.0
"""Which model is served: from a positional argument, LMI's flags, `HF_MODEL_ID`, a store, or an option.

Called by `layers.py`, which reads the model directory's `serving.properties` afterwards. Looks at directories, never
into a hub.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.config.command_line import CommandLine
from serving.config.host import Host, absolute
from serving.config.sources import Setting
from serving.errors import ConfigError, Problem

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_DESCRIPTIONS = ("config.json", "params.json")
"""One of these comes with weights: in Hugging Face's layout, and in Mistral's."""
_THREE_WAYS = "give a model: lmi serve MODEL, or HF_MODEL_ID=MODEL, or option.model_id=MODEL in serving.properties"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where the model directory is, before its own configuration was read.

    Attributes:
        directory: the model directory, holding `serving.properties`, `model.py`, `adapters/`; None for a bare hub id.
        model: what to load if nothing stronger says otherwise.
        strength: who may say otherwise: nobody for a `hub` id, the directory's own file for a `directory`, every
            option for a `store`.
        name: the endpoint's name if it was given with the model.
        given: the model as it was written where it was named outside the store.
        empty_store: the model store that was named and holds nothing; empty if there is none.
    """

    directory: Path | None = None
    model: Setting | None = None
    strength: Literal["hub", "directory", "store"] = "store"
    name: str | None = None
    given: str = ""
    empty_store: str = ""


def locate(
    line: CommandLine,
    from_config_file: Setting | None,
    from_variable: Setting | None,
    env: Mapping[str, str],
    host: Host,
    demo_dir: Path,
    warnings: list[str],
) -> ModelLocation:
    """The first of: `--demo`, positional model or `--model`, `-m`, `--config`, `HF_MODEL_ID`, the model store.

    Args:
        line: the command line.
        from_config_file: the model that `--config` names.
        from_variable: the model that `HF_MODEL_ID` or `OPTION_MODEL_ID` names. It goes together with a model store that
            is not empty: the store is the model directory then.
        env: the variables, for the name of the store.
        host: the machine.
        demo_dir: what `--demo` means.
        warnings: is added to.

    Raises:
        ConfigError: a path that does not exist (`NOT_FOUND`), two models on the command line (`CONFLICT`) or in the
            store (`UNSUPPORTED`).
    """
    flag = next((setting.text for setting in reversed(line.settings) if setting.name == "model"), None)
    given = {
        "--demo": str(demo_dir) if line.demo else None,
        "positional argument": line.model,
        "command line --model": flag,
        "command line -m": line.models,
    }
    named = [(text, origin) for origin, text in given.items() if text]
    if len(named) > 1:
        text = " and ".join(f"{text!r} ({origin})" for text, origin in named)
        raise ConfigError([Problem("CONFLICT", f"more than one model: {text}", remedy="one server serves one model")])
    if named:
        return _location(*named[0], host)
    if from_config_file is not None:
        return _location(from_config_file.text, from_config_file.origin, host)
    store = _store(line, env, warnings)
    entries = sorted(host.path(store).iterdir()) if store and host.path(store).is_dir() else []
    if store and entries:
        return _in_store(store, entries, has_id=from_variable is not None)
    if store and not host.path(store).is_dir():
        warnings.append(f"the model store {store!r} does not exist")
    if from_variable is not None:
        return _location(from_variable.text, from_variable.origin, host)
    return ModelLocation(empty_store=store or "")


def nothing_to_serve(location: ModelLocation) -> ConfigError:
    """No source named a model."""
    reason = f": the model store {location.empty_store!r} is empty or missing" if location.empty_store else ""
    return ConfigError([Problem("NOT_FOUND", f"no model{reason}", remedy=_THREE_WAYS)])


def endpoint_name(location: ModelLocation, model: str) -> str:
    """The name given with the model, else LMI's: of its directory, else the hub id, with `_` for other characters."""
    return location.name or re.sub(r"\W", "_", location.directory.name if location.directory is not None else model)


def check_model_id(model: str, origin: str, host: Host) -> None:
    """Refuses what can be neither a directory here nor a hub id.

    Raises:
        ConfigError: kind `NOT_FOUND`.
    """
    if not host.path(model).is_dir() and not _HUB_ID.fullmatch(model):
        raise ConfigError([Problem("NOT_FOUND", f"model directory {model!r} does not exist", origin, _THREE_WAYS)])


def has_weights(model: str, host: Host) -> bool:
    """There is a model to load: a hub id, or a directory that holds more than code."""
    directory = host.path(model)
    if not directory.is_dir():
        return True
    return any((directory / name).is_file() for name in _DESCRIPTIONS) or any(directory.glob("*.gguf"))


def _store(line: CommandLine, env: Mapping[str, str], warnings: list[str]) -> str | None:
    """The model store's path; as in LMI its variable beats its flag."""
    variable = env.get("SERVING_MODEL_STORE")
    if variable and line.model_store and absolute(variable) != absolute(line.model_store):
        warnings.append(f"SERVING_MODEL_STORE={variable} wins over the flag -s {line.model_store}, as in LMI")
    store = variable or line.model_store
    return absolute(store) if store else None


def _in_store(store: str, entries: list[Path], has_id: bool) -> ModelLocation:
    """The store itself, or the one model directory it holds where it holds directories only."""
    found = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if has_id or len(found) < len(entries):
        return ModelLocation(entries[0].parent, Setting("model", store, "model store"))
    found = [entry for entry in found if any(entry.iterdir())]
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        text = f"the model store {store!r} holds {len(found)} models: {names}"
        raise ConfigError([Problem("UNSUPPORTED", text, remedy="one server serves one model")])
    if not found:
        return ModelLocation(empty_store=store)
    return ModelLocation(found[0], Setting("model", f"{store}/{found[0].name}", "model store"))


def _location(text: str, origin: str, host: Host) -> ModelLocation:
    named = re.fullmatch(r"\[?(\w[\w.-]*)[^\]=]*\]?=(.+)", text) if origin == "command line -m" else None
    name, target = named.groups() if named else (None, text)
    target = target.removeprefix("file://")
    if host.path(target).is_dir() or target.startswith((".", "/", "~")):
        path = host.path(target)
        if not path.is_dir() or not any(path.iterdir()):
            state = "is empty" if path.is_dir() else "is not a directory" if path.exists() else "does not exist"
            raise ConfigError([Problem("NOT_FOUND", f"directory {target!r} {state}", origin, _THREE_WAYS)])
        name = "demo" if origin == "--demo" else name
        return ModelLocation(path, Setting("model", absolute(target), origin), "directory", name, target)
    check_model_id(target, origin, host)
    return ModelLocation(None, Setting("model", target, origin), "hub", name, target)
