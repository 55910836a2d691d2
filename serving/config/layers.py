# SPDX-License-Identifier: Apache-2.0
"""Lines all sources up, strongest first, around the place where the model was found.

Called by `resolve.py`, which merges the layers. `sources.py` reads each source, `model.py` finds the model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.config import server_files
from serving.config.command_line import CommandLine
from serving.config.host import Host
from serving.config.model import ModelLocation, locate
from serving.config.sources import Effective, Setting, from_environment, from_properties, from_yaml
from serving.config.vllm_arguments import arguments
from serving.errors import Problem


def read_layers(
    line: CommandLine, env: Mapping[str, str], host: Host, demo_dir: Path, warnings: list[str]
) -> tuple[ModelLocation, list[list[Setting]]]:
    """The model's place, and all settings in layers; the model stands where its strength puts it.

    Raises:
        ConfigError: a source that cannot be read, or no such model.
    """
    config_file = from_yaml(host.path(line.config_file), warnings) if line.config_file is not None else []
    variables = from_environment(env, warnings)
    server_file = server_files.read(line.server_file, env, host, warnings)
    hub, regular = variables.hub, variables.regular
    store = {
        setting.name: setting for setting in [*server_file, *regular] if setting.name in server_files.LOCATION_KEYS
    }
    location = locate(line, _model(config_file), _model([*hub, *regular]), store, env, host, demo_dir, warnings)
    placed = {location.strength: [location.model]} if location.model is not None else {}
    on_hub, in_directory, in_store = (placed.get(strength, []) for strength in ("hub", "directory", "store"))
    properties = location.directory / "serving.properties" if location.directory is not None else None
    file = from_properties(properties, warnings) if properties is not None and properties.is_file() else []
    strange = [one for one in file if one.name in server_files.NOT_A_MODELS and one.spelling not in ("", one.name)]
    strange += [one for one in file if one.name in server_files.NOT_A_MODELS and one.name not in arguments()]
    for one in dict.fromkeys(strange):
        warnings.append(f"{one.spelling} ({one.origin}) has no effect: a model does not say where the server listens")
        file.remove(one)
    if not _is_hub_id(_model([*on_hub, *file, *in_directory, *hub]), host):
        warnings += [
            f"{setting.origin} has no effect: it belongs to a Hub id in HF_MODEL_ID"
            for setting in hub
            if setting.name != "model"
        ]
        hub = [setting for setting in hub if setting.name == "model"]
    flags = _but_model(line.settings)
    layers = [flags, on_hub, _but_model(config_file), variables.sagemaker, file, in_directory, hub, regular]
    return location, [*layers, variables.older, server_file, in_store]


def report_overridden(effective: Mapping[str, Effective], problems: list[Problem], warnings: list[str]) -> None:
    """A value of the file hides one of a variable that has another name for it, or the model of `HF_MODEL_ID`."""
    pairs = [(name, entry.setting, loser) for name, entry in effective.items() for loser in entry.overrode]
    for name, winner, loser in pairs:
        if winner.text == loser.text or not winner.spelling or not loser.spelling:
            continue
        values = f"{winner.text!r} ({winner.origin}) and {loser.text!r} ({loser.origin})"
        if name == "model" and winner.spelling != loser.spelling:
            problems.append(Problem("CONFLICT", f"{name} is both {values}", remedy="keep one of the two"))
        elif winner.spelling != loser.spelling or loser.origin == "HF_MODEL_ID":
            warnings.append(f"{name} is both {values}; the first counts")


def _model(settings: Sequence[Setting]) -> Setting | None:
    return next((setting for setting in settings if setting.name == "model"), None)


def _but_model(settings: Sequence[Setting]) -> list[Setting]:
    return [setting for setting in settings if setting.name != "model"]


def _is_hub_id(model: Setting | None, host: Host) -> bool:
    """The model is the one of `HF_MODEL_ID`, and no directory."""
    return model is not None and model.origin == "HF_MODEL_ID" and not host.path(model.text).is_dir()
