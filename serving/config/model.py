# SPDX-License-Identifier: Apache-2.0
"""Which model is served: from a positional argument, LMI's flags, `HF_MODEL_ID`, a store, or an option.

Called by `layers.py`, which reads the model directory's `serving.properties` afterwards. Looks at directories, fetches
from S3 and extracts archives; never looks into a hub.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.config.archives import extracted, is_archive, stem, unwrapped
from serving.config.command_line import CommandLine
from serving.config.host import Host, absolute
from serving.config.sources import Setting
from serving.downloads import DownloadFailed
from serving.errors import ConfigError, Problem

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NAMED_MODEL = re.compile(r"(?:\[(\w[\w.-]*)(?::([^:\]]*))?[^\]]*\]|(\w[\w.-]*))=(.+)")
"""`[name:version:engine:devices]=model`, or without brackets and all but the name."""
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
        version: the endpoint's, the same.
        given: the model as it was written where it was named outside the store.
        empty_store: the model store that was named and holds nothing; empty if there is none.
    """

    directory: Path | None = None
    model: Setting | None = None
    strength: Literal["hub", "directory", "store"] = "store"
    name: str | None = None
    version: str = ""
    given: str = ""
    empty_store: str = ""


def locate(
    line: CommandLine,
    from_config_file: Setting | None,
    from_variable: Setting | None,
    keys: Mapping[str, Setting],
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
        keys: LMI's `model_store` and `load_models`, where they are set.
        env: the variables, for where to put what is fetched.
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
    cache = host.cache(env)
    if len(named) > 1:
        text = " and ".join(f"{text!r} ({origin})" for text, origin in named)
        raise ConfigError([Problem("CONFLICT", f"more than one model: {text}", remedy="one server serves one model")])
    if named:
        text, origin = named[0]
        return _location(text, origin, host, cache, takes_name=origin == "command line -m")
    if from_config_file is not None:
        return _location(from_config_file.text, from_config_file.origin, host, cache)
    loaded = _load_models(keys)
    if loaded.upper() == "NONE":
        return ModelLocation(empty_store="load_models=NONE")
    if loaded.upper() not in ("", "ALL"):
        return _location(loaded, keys["load_models"].origin, host, cache, takes_name=True)
    store = _store(line, keys.get("model_store"), warnings)
    entries = sorted(host.path(store).iterdir()) if store and host.path(store).is_dir() else []
    if store and entries:
        has_id = from_variable is not None and absolute(from_variable.text) != store
        return _in_store(store, entries, has_id, host, cache)
    if store and not host.path(store).is_dir():
        warnings.append(f"the model store {store!r} does not exist")
    if from_variable is not None:
        return _location(from_variable.text, from_variable.origin, host, cache)
    return ModelLocation(empty_store=store or "")


def nothing_to_serve(location: ModelLocation) -> ConfigError:
    """No source named a model."""
    reason = f": the model store {location.empty_store!r} is empty or missing" if location.empty_store else ""
    return ConfigError([Problem("NOT_FOUND", f"no model{reason}", remedy=_THREE_WAYS)])


def endpoint_name(location: ModelLocation, model: str) -> str:
    """The name given with the model, else LMI's: of its directory, else the hub id, with `_` for other characters."""
    return location.name or _word(location.directory.name if location.directory is not None else model)


def check_model_id(model: str, origin: str, host: Host) -> None:
    """Refuses what can be neither a directory here nor a hub id.

    Raises:
        ConfigError: kind `NOT_FOUND`.
    """
    if not host.is_dir(model) and not _HUB_ID.fullmatch(model):
        raise ConfigError([Problem("NOT_FOUND", f"model directory {model!r} does not exist", origin, _THREE_WAYS)])


def has_weights(model: str, host: Host) -> bool:
    """There is a model to load: a hub id, or a directory that holds more than code."""
    directory = host.path(model)
    if not directory.is_dir():
        return True
    return any((directory / name).is_file() for name in _DESCRIPTIONS) or any(directory.glob("*.gguf"))


def _load_models(keys: Mapping[str, Setting]) -> str:
    """The model that `load_models` names, or one of LMI's words for all and nothing."""
    text = keys["load_models"].text.strip() if "load_models" in keys else ""
    models = [word for word in re.split(r"[,\s]+", text) if word]
    if len(models) > 1:
        problem = f"load_models names {len(models)} models: {', '.join(models)}"
        raise ConfigError([Problem("UNSUPPORTED", problem, keys["load_models"].origin, "one server serves one model")])
    return models[0] if models else ""


def _store(line: CommandLine, key: Setting | None, warnings: list[str]) -> str | None:
    """The model store's path; as in LMI its variable beats its flag, and that the file."""
    is_variable = key is not None and key.origin.startswith("SERVING_")
    if key is not None and is_variable and line.model_store and absolute(key.text) != absolute(line.model_store):
        warnings.append(f"{key.origin}={key.text} wins over the flag -s {line.model_store}, as in LMI")
    weaker = key.text if key is not None else None
    store = weaker if is_variable else line.model_store or weaker
    return absolute(store) if store else None


def _in_store(store: str, entries: list[Path], has_id: bool, host: Host, cache: Path) -> ModelLocation:
    """The store itself, or the one model it holds where it holds directories and archives only."""
    found = [entry for entry in entries if not entry.name.startswith(".") and (entry.is_dir() or is_archive(entry))]
    if has_id or len(found) < len(entries):
        return ModelLocation(entries[0].parent, Setting("model", store, "model store"))
    found = [entry for entry in found if entry.is_file() or any(entry.iterdir())]
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        text = f"the model store {store!r} holds {len(found)} models: {names}"
        raise ConfigError([Problem("UNSUPPORTED", text, remedy="one server serves one model")])
    if not found:
        return ModelLocation(empty_store=store)
    path = _opened(found[0], cache)
    return ModelLocation(path, Setting("model", host.text(path), "model store"), name=_word(stem(found[0].name)))


def _location(text: str, origin: str, host: Host, cache: Path, takes_name: bool = False) -> ModelLocation:
    """Where a model is that somebody named; LMI's own two ways take a name with it, `NAME=MODEL`."""
    named = _NAMED_MODEL.fullmatch(text) if takes_name else None
    name, version, target = (named[1] or named[3], named[2] or "", named[4]) if named else (None, "", text)
    target = target.removeprefix("file://")
    path = host.path(target) if "://" not in target and "\0" not in target else None
    if target.startswith("s3://"):
        path = _opened(fetched(target, origin, host, cache), cache)
        name = name or _word(stem(target.rstrip("/").rpartition("/")[2]))
        return ModelLocation(path, Setting("model", host.text(path), origin), "directory", name, version, target)
    if path is not None and (os.path.isdir(path) or is_archive(path) or target.startswith((".", "/", "~"))):
        if not is_archive(path) and (not os.path.isdir(path) or not any(path.iterdir())):
            is_there = os.path.exists(path)
            state = "is empty" if os.path.isdir(path) else "is not a directory" if is_there else "does not exist"
            raise ConfigError([Problem("NOT_FOUND", f"directory {target!r} {state}", origin, _THREE_WAYS)])
        name = "demo" if origin == "--demo" else name or _word(stem(path.name))
        opened = _opened(path, cache)
        given = absolute(target) if opened == path else host.text(opened)
        return ModelLocation(opened, Setting("model", given, origin), "directory", name, version, target)
    check_model_id(target, origin, host)
    return ModelLocation(None, Setting("model", target, origin), "hub", name, version, target)


def fetched(url: str, origin: str, host: Host, cache: Path) -> Path:
    """The local copy of what an s3:// URL names.

    Raises:
        ConfigError: it cannot be fetched (`NOT_FOUND`).
    """
    try:
        return host.fetch(url, cache / "download")
    except DownloadFailed as error:
        raise ConfigError([Problem("NOT_FOUND", str(error), origin)]) from None


def _opened(path: Path, cache: Path) -> Path:
    """The directory with the model's files."""
    return unwrapped(extracted(path, cache) if is_archive(path) else path, cache)


def _word(name: str) -> str:
    """LMI's name for an endpoint."""
    return re.sub(r"\W", "_", name)
