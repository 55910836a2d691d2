# SPDX-License-Identifier: Apache-2.0
"""Which model is served: from a positional argument, LMI's flags, `HF_MODEL_ID`, a store, or an option.

Called by `resolve.py`, which merges the model directory's `serving.properties` afterwards. Looks at directories, never
into a hub.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.config.command_line import CommandLine
from serving.config.host import Host
from serving.config.sources import Setting
from serving.errors import ConfigError, Problem

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
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
    """

    directory: Path | None = None
    model: Setting | None = None
    strength: Literal["hub", "directory", "store"] = "store"
    name: str | None = None


def locate(line: CommandLine, env: Mapping[str, str], host: Host, demo_dir: Path) -> ModelLocation:
    """The first of: `--demo`, positional model or `--model`, `-m`, `HF_MODEL_ID`, the model store.

    Raises:
        ConfigError: a path that does not exist (`NOT_FOUND`), or two models on the command line (`CONFLICT`).
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
    store = line.model_store or env.get("SERVING_MODEL_STORE")
    directory = _existing(store, "model store", host) if store else None
    if (hub := env.get("HF_MODEL_ID")) and (directory is None or not any(directory.iterdir())):
        return _location(hub, "HF_MODEL_ID", host)
    return ModelLocation(directory, Setting("model", str(directory), "model store") if directory else None)


def nothing_to_serve() -> ConfigError:
    """No source named a model."""
    return ConfigError([Problem("NOT_FOUND", "no model", remedy=_THREE_WAYS)])


def endpoint_name(location: ModelLocation, model: str) -> str:
    """LMI's name of the model: the last part of its directory, else the hub id; other characters become `_`."""
    text = location.name or (location.directory.resolve().name if location.directory is not None else model)
    return re.sub(r"\W", "_", text)


def check_model_id(model: str, origin: str, host: Host) -> None:
    """Refuses what can be neither a directory here nor a hub id.

    Raises:
        ConfigError: kind `NOT_FOUND`.
    """
    if not host.path(model).is_dir() and not _HUB_ID.fullmatch(model):
        raise ConfigError([Problem("NOT_FOUND", f"model directory {model!r} does not exist", origin, _THREE_WAYS)])


def _location(text: str, origin: str, host: Host) -> ModelLocation:
    named = re.fullmatch(r"\[?(\w[\w.-]*)[^\]=]*\]?=(.+)", text) if origin == "command line -m" else None
    name, target = named.groups() if named else (None, text)
    target = target.removeprefix("file://")
    if host.path(target).is_dir() or target.startswith((".", "/", "~")):
        directory = _existing(target, origin, host)
        return ModelLocation(directory, Setting("model", str(directory), origin), "directory", name)
    check_model_id(target, origin, host)
    return ModelLocation(None, Setting("model", target, origin), "hub", name)


def _existing(text: str, origin: str, host: Host) -> Path:
    path = host.path(text)
    if not path.is_dir():
        raise ConfigError([Problem("NOT_FOUND", f"directory {text!r} does not exist", origin, _THREE_WAYS)])
    return path.absolute()
