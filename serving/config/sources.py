# SPDX-License-Identifier: Apache-2.0
"""Where values come from and which one wins. Every value keeps the text it was written as and its origin.

The order, strongest first: flags, vLLM's `--config` file, `serving.properties`, `HF_*`, `OPTION_*`/`SERVING_*`, the
older variables of single options. `resolve.py` lines the layers up and asks `merge` for the winners.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import javaproperties
import yaml

from serving.config.options import LmiOptions, ServerSettings, options
from serving.config.vllm_arguments import arguments
from serving.errors import ConfigError, Problem

_HF_VARIABLES = {"HF_MODEL_ID": "model", "HF_REVISION": "revision"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as somebody wrote it.

    Attributes:
        name: canonical: the vLLM argument or LMI option it sets.
        text: its value, unread.
        origin: file and line, variable or flag.
        known: the name is one we know; unknown ones are reported and kept for a custom handler.
    """

    name: str
    text: str
    origin: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class Effective:
    """The setting that won, and the weaker ones with another value that it overrode."""

    setting: Setting
    overrode: tuple[Setting, ...] = ()


def merge(layers: Sequence[Iterable[Setting]]) -> dict[str, Effective]:
    """The winner per name; in one layer the last setting counts. Layers come strongest first."""
    candidates: dict[str, list[Setting]] = {}
    for layer in layers:
        last = {setting.name: setting for setting in layer}
        for name, setting in last.items():
            candidates.setdefault(name, []).append(setting)
    return {
        name: Effective(winner, tuple(weaker for weaker in rest if weaker.text != winner.text))
        for name, (winner, *rest) in candidates.items()
    }


def from_properties(path: Path) -> list[Setting]:
    """The settings of a `serving.properties` file.

    Raises:
        ConfigError: the file cannot be parsed (`PROPS_SYNTAX`), or two spellings of one option disagree (`CONFLICT`).
    """
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("iso-8859-1")
    found: dict[str, tuple[str, str, str]] = {}
    line = 1
    try:
        for entry in javaproperties.parse(text):
            if isinstance(entry, javaproperties.KeyValue):
                key, value = entry.key, entry.value.rstrip()
                if key:
                    found[key] = (key, value, f"{path.name} line {line}")
            line += entry.source.count("\n")
    except javaproperties.InvalidUEscapeError as error:
        raise ConfigError([Problem("PROPS_SYNTAX", str(error), f"{path.name} line {line}")]) from None
    settings = [_option_setting(key, value, origin) for key, value, origin in found.values()]
    _refuse_disagreement(settings)
    return settings


def from_environment(env: Mapping[str, str]) -> list[list[Setting]]:
    """Three layers: `HF_*`, then `OPTION_*` and `SERVING_*`, then the older variables of single options."""
    hub = [Setting(name, env[key], key) for key, name in _HF_VARIABLES.items() if env.get(key)]
    regular = []
    for key, value in env.items():
        if key.startswith("OPTION_") and value:
            rest = key.removeprefix("OPTION_")
            name = rest.lower() if re.fullmatch(r"[A-Z0-9_]+", rest) else rest
            regular.append(_option_setting(f"option.{name}", value, key))
        elif key.startswith("SERVING_") and value:
            name = key.removeprefix("SERVING_").lower()
            if name in ServerSettings.model_fields:
                regular.append(Setting(name, value, key))
    older = [
        Setting(row.canonical, env[variable], variable)
        for row in dict.fromkeys(options().values())
        for variable in row.variables
        if env.get(variable)
    ]
    return [hub, regular, older]


def from_yaml(path: Path) -> list[Setting]:
    """The settings of upstream's `--config` file: flat keys in vLLM's names, nested mappings for JSON arguments.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([Problem("NOT_FOUND", f"cannot read --config {path}: {error.strerror}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError(
            [Problem("VALIDATION", f"--config {path} is not YAML: {' '.join(str(error).split())}")]
        ) from None
    if not isinstance(content, dict):
        raise ConfigError([Problem("VALIDATION", f"--config {path} must hold `name: value` lines")])
    return [
        _option_setting(f"option.{key}", value if isinstance(value, str) else json.dumps(value), f"{path.name} {key}")
        for key, value in content.items()
    ]


def _option_setting(key: str, value: str, origin: str) -> Setting:
    """`key` as written in a file (`option.` prefix or not), under its canonical name."""
    bare = key.removeprefix("option.")
    for name in (bare, bare.replace("-", "_")):
        row = options().get(name)
        if row is not None and (row.table is LmiOptions or not key.startswith("option.")):
            return Setting(row.canonical, value, origin)
        if row is None and name in arguments():
            return Setting(name, value, origin)
    return Setting(bare, value, origin, known=False)


def _refuse_disagreement(settings: Sequence[Setting]) -> None:
    """Two spellings of one option in one file must say the same."""
    seen: dict[str, Setting] = {}
    problems = []
    for setting in settings:
        other = seen.setdefault(setting.name, setting)
        if other.text != setting.text:
            problems.append(
                Problem("CONFLICT", f"{setting.name} is both {other.text!r} and {setting.text!r}",
                        f"{other.origin} and {setting.origin}", "keep one of the two lines")
            )  # fmt: skip
    if problems:
        raise ConfigError(problems)
