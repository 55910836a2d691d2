# SPDX-License-Identifier: Apache-2.0
"""Where values come from and which one wins. Every value keeps the text it was written as and its origin.

The order is `ORDER`. `layers.py` lines the sources up, `resolve.py` asks `merge` for the winners.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import javaproperties
import yaml

from serving.config import past
from serving.config.masking import masked
from serving.config.options import LmiOptions, ServerSettings, options
from serving.config.values import parse_bool, parse_int, parse_json_object
from serving.config.vllm_arguments import arguments
from serving.errors import ConfigError, Problem

ORDER = (
    "command line",
    "--config",
    "SAGEMAKER_*",
    "serving.properties",
    "HF_*",
    "OPTION_* and SERVING_*",
    "older variables of single options",
    "config.properties",
)
"""The sources, strongest first."""

_HF_VARIABLES = {
    "HF_MODEL_ID": ("model", "model_id"),
    "HF_REVISION": ("revision", "revision"),
    "HF_TASK": ("task", "task"),
}
_TGI_VARIABLES = {
    "HF_MODEL_QUANTIZE": "OPTION_QUANTIZE",
    "HF_MODEL_TRUST_REMOTE_CODE": "OPTION_TRUST_REMOTE_CODE",
    "HF_TRUST_REMOTE_CODE": "OPTION_TRUST_REMOTE_CODE",
    "SM_NUM_GPUS": "TENSOR_PARALLEL_DEGREE",
    "MAX_CONCURRENT_REQUESTS": "SERVING_JOB_QUEUE_SIZE",
    "MAX_BATCH_PREFILL_TOKENS": "OPTION_MAX_ROLLING_BATCH_PREFILL_TOKENS",
    "MAX_BATCH_SIZE": "OPTION_MAX_ROLLING_BATCH_SIZE",
    "CUDA_MEMORY_FRACTION": "OPTION_GPU_MEMORY_UTILIZATION",
    "ENABLE_CUDA_GRAPHS": "OPTION_ENFORCE_EAGER",
}
"""TGI's variables that LMI's container reads, and LMI's own, which are stronger."""
_SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "max_new_tokens",
}  # fmt: skip
"""Sampling defaults in a block `backend`, by their names in a generation config."""
_CLIENTS_OWN = {
    "type": "it is the client's name for the server",
    "api_base": "it says where the client looks for the server",
    "api_key": "the client's key; the server's is api_key outside the block",
}
_READ_ELSEWHERE = frozenset({"SERVING_DOWNLOAD_DIR", "SERVING_OPTS", "SERVING_FEATURES"})
"""Variables that look like one of the server's keys and are none."""
_PAYLOAD_MB, _PAYLOAD_BYTES = "SAGEMAKER_MAX_PAYLOAD_IN_MB", "SAGEMAKER_MAX_REQUEST_SIZE"
_KEYS = {"entrypoint": "option.entryPoint", "pythonexecutable": "option.pythonExecutable", "engine": "engine"}
"""Keys whose spelling a variable in capitals does not tell."""
_TGI_UNREAD = {
    "HF_MODEL_REVISION": "HF_REVISION",
    "QUANTIZE": "OPTION_QUANTIZE",
    "DTYPE": "OPTION_DTYPE",
    "NUM_SHARD": "TENSOR_PARALLEL_DEGREE",
    "MAX_INPUT_LENGTH": "OPTION_MAX_MODEL_LEN",
    "MAX_TOTAL_TOKENS": "OPTION_MAX_MODEL_LEN",
}
"""TGI's variables that LMI does not read, and what to set instead."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value as somebody wrote it.

    Attributes:
        name: canonical: the vLLM argument or LMI option it sets.
        text: its value, unread.
        origin: file and line, variable or flag.
        known: the name is one we know; unknown ones are reported and kept for a custom handler.
        spelling: the name as it stands in `serving.properties` or a variable, where it could be another (an alias).
    """

    name: str
    text: str
    origin: str
    known: bool = True
    spelling: str = ""


@dataclass(frozen=True, slots=True)
class Effective:
    """The setting that won, and the weaker ones, strongest first."""

    setting: Setting
    overrode: tuple[Setting, ...] = ()


def merge(layers: Sequence[Iterable[Setting]]) -> dict[str, Effective]:
    """The winner per name; in one layer the last setting counts. Layers come strongest first.

    What stands in two layers, as the model of `HF_MODEL_ID` does, does not beat itself.
    """
    candidates: dict[str, list[Setting]] = {}
    for layer in layers:
        last = {setting.name: setting for setting in layer}
        for name, setting in last.items():
            candidates.setdefault(name, []).append(setting)
    return {
        name: Effective(winner, tuple(one for one in rest if one.origin != winner.origin))
        for name, (winner, *rest) in candidates.items()
    }


def from_properties(path: Path, warnings: list[str]) -> list[Setting]:
    """The settings of a `serving.properties` file; what reads otherwise than written is added to `warnings`.

    Raises:
        ConfigError: the file cannot be read (`NOT_FOUND`) or parsed (`PROPS_SYNTAX`), or two spellings of one option
            disagree (`CONFLICT`).
    """
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ConfigError([Problem("NOT_FOUND", f"cannot read {path}: {error.strerror}")]) from None
    try:
        text, encoding = data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:
        text, encoding = data.decode("iso-8859-1"), "ISO-8859-1"
    found: dict[str, tuple[str, str]] = {}
    blanks, foreign = [], []
    line = 1
    try:
        for entry in javaproperties.parse(text):
            if isinstance(entry, javaproperties.KeyValue):
                origin = f"{path.name} line {line}"
                if entry.key:
                    found[entry.key] = (entry.value.rstrip(), origin)
                else:
                    warnings.append(f"{origin} has no key before its separator and is ignored")
                if entry.value != entry.value.rstrip():
                    blanks.append(entry.key)
                if not entry.source.isascii():
                    foreign.append(entry.key)
            line += len(re.findall(r"\r\n|\r|\n", entry.source))
    except javaproperties.InvalidUEscapeError as error:
        raise ConfigError([Problem("PROPS_SYNTAX", str(error), f"{path.name} line {line}")]) from None
    if blanks:
        warnings.append(f"{path.name}: blanks at the end of a value are dropped: {', '.join(dict.fromkeys(blanks))}")
    if foreign:
        warnings.append(
            f"{path.name}: characters beyond ASCII are read as {encoding}: {', '.join(dict.fromkeys(foreign))}"
        )
    for key in [key for key in found if f"option.{key}" in found]:
        warnings.append(f"{key} ({found.pop(key)[1]}) has no effect beside option.{key}")
    settings = [_option_setting(key, value, origin, warnings) for key, (value, origin) in found.items()]
    _refuse_disagreement(settings)
    return settings


def from_environment(env: Mapping[str, str], warnings: list[str]) -> "Variables":
    """The settings in environment variables, in LMI's spelling, SageMaker's and TGI's.

    Raises:
        ConfigError: two spellings of one option disagree (`CONFLICT`), TGI's `ENABLE_CUDA_GRAPHS` is no boolean, or
            another engine is asked for (`UNSUPPORTED`).
    """
    _older_server(env, warnings)
    given = {name: (value, name) for name, value in env.items() if value}
    given |= {name: entry for name, entry in _from_tgi(env, warnings).items() if name not in given}
    hub = [Setting(name, *given[key], spelling=option) for key, (name, option) in _HF_VARIABLES.items() if key in given]
    found: dict[str, tuple[str, str]] = {}
    for variable in sorted(given, key=lambda name: not name.isupper()):
        if not variable.startswith("OPTION_"):
            continue
        rest = variable.removeprefix("OPTION_")
        name = rest.lower() if re.fullmatch(r"[A-Z0-9_]+", rest) else rest
        key = _KEYS.get(name, f"option.{name}")
        if key in found:
            warnings.append(f"{variable} has no effect beside {found[key][1]}")
        else:
            found[key] = given[variable]
    regular = [_option_setting(key, value, origin, warnings) for key, (value, origin) in found.items()]
    _refuse_disagreement(regular)
    for variable in sorted(name for name in given if name.startswith("SERVING_") and name not in _READ_ELSEWHERE):
        name = variable.removeprefix("SERVING_").lower()
        row = options().get(name) if name in ServerSettings.model_fields else None
        is_known = row is not None or past.is_known(name)
        regular.append(Setting(row.canonical if row else name, *given[variable], is_known))
    rows = dict.fromkeys(options().values())
    older = [Setting(row.canonical, *given[name]) for row in rows for name in row.variables.older if name in given]
    sagemaker = [
        Setting(row.canonical, *given[name]) for row in rows for name in row.variables.sagemaker if name in given
    ]
    sagemaker = [*_payload_limit(given, warnings), *sagemaker]
    return Variables(sagemaker, hub, regular, older)


def _older_server(env: Mapping[str, str], warnings: list[str]) -> None:
    """Variables of LMI's Java server and images that are none of its keys."""
    if "trtllm" in (features := env.get("SERVING_FEATURES", "")) and "vllm" not in features:
        problem = Problem(
            "UNSUPPORTED", f"SERVING_FEATURES={features}: vLLM is the only engine here", "SERVING_FEATURES"
        )
        raise ConfigError([problem])
    if (size := env.get("DJL_CLUSTER_SIZE", "")).isdigit() and int(size) > 1:
        text = f"DJL_CLUSTER_SIZE={size}: this server does not start others"
        remedy = "spread one engine with vLLM's own arguments (nnodes, data_parallel_*), or run replicas"
        raise ConfigError([Problem("UNSUPPORTED", text, "DJL_CLUSTER_SIZE", remedy)])
    for name in ("SERVING_OPTS", "JAVA_OPTS", "DEFAULT_JVM_OPTS"):
        if env.get(name):
            warnings.append(f"{name} has no effect: there is no Java here; VLLM_LOGGING_LEVEL=DEBUG logs more")


def _payload_limit(given: Mapping[str, tuple[str, str]], warnings: list[str]) -> list[Setting]:
    """SageMaker's limit in MiB, which is weaker than its limit in bytes; what is no number costs a warning."""
    if _PAYLOAD_MB not in given:
        return []
    text = given[_PAYLOAD_MB][0]
    if _PAYLOAD_BYTES in given:
        warnings.append(f"{_PAYLOAD_MB} has no effect beside {_PAYLOAD_BYTES}")
        return []
    try:
        return [Setting("max_request_size", str(parse_int(text) * 1024 * 1024), _PAYLOAD_MB)]
    except ValueError as error:
        warnings.append(f"{_PAYLOAD_MB}={text!r} has no effect: {error}")
        return []


@dataclass(frozen=True, slots=True)
class Variables:
    """The settings in environment variables, in layers.

    Attributes:
        sagemaker: stronger than `serving.properties`.
        hub: `HF_*`.
        regular: `OPTION_*` and `SERVING_*`.
        older: variables of single options, such as `TENSOR_PARALLEL_DEGREE`.
    """

    sagemaker: list[Setting]
    hub: list[Setting]
    regular: list[Setting]
    older: list[Setting]


def _from_tgi(env: Mapping[str, str], warnings: list[str]) -> dict[str, tuple[str, str]]:
    """LMI's variable to the value and the name of TGI's variable that stands for it."""
    for name, instead in _TGI_UNREAD.items():
        if env.get(name):
            warnings.append(f"{name} has no effect; set {instead}")
    if env.get("HF_TRUST_REMOTE_CODE"):
        warnings.append("HF_TRUST_REMOTE_CODE is read as OPTION_TRUST_REMOTE_CODE")
    found = {}
    for name, target in _TGI_VARIABLES.items():
        if (text := env.get(name)) and target not in found:
            found[target] = (text, name)
    if "OPTION_ENFORCE_EAGER" in found:
        text, name = found["OPTION_ENFORCE_EAGER"]
        try:
            found["OPTION_ENFORCE_EAGER"] = (json.dumps(not parse_bool(text)), name)
        except ValueError as error:
            raise ConfigError([Problem("VALIDATION", f"{name}={text!r}: {error}", name)]) from None
    return found


def from_yaml(path: Path, warnings: list[str]) -> list[Setting]:
    """The settings of upstream's `--config` file: flat keys in vLLM's names, nested mappings for JSON arguments.

    A block `backend`, as in the files of programs that start vLLM themselves, is read as if it stood outside.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([Problem("NOT_FOUND", f"cannot read --config {path}: {error.strerror}")]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            [Problem("VALIDATION", f"--config {path} is not YAML: {' '.join(str(error).split())}")]
        ) from None
    if not isinstance(content, dict):
        raise ConfigError([Problem("VALIDATION", f"--config {path} must hold `name: value` lines")])
    entries = {str(key).replace("-", "_"): (str(key), value) for key, value in content.items()}
    if isinstance(backend := content.get("backend"), dict):
        del entries["backend"]
        _add_backend(entries, backend, path, warnings)
    try:
        return [_named(name, _yaml_text(value), f"{path.name} {key}") for name, (key, value) in entries.items()]
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem("VALIDATION", f"--config {path}: {error}")]) from None


def from_keywords(keywords: Mapping[str, Any]) -> list[Setting]:
    """The settings in Python's keyword arguments, which are read as if they stood in a `--config` file."""
    return [_named(name, _yaml_text(value), f"keyword {name}") for name, value in keywords.items()]


def _add_backend(
    entries: dict[str, tuple[str, Any]], backend: Mapping[str, Any], path: Path, warnings: list[str]
) -> None:
    """The entries of a block `backend` in vLLM's names; a client's own are left out, and those outside it win."""
    sampling = {}
    for key, value in backend.items():
        name = str(key).replace("-", "_")
        if name in _CLIENTS_OWN:
            warnings.append(f"backend.{key} ({path.name}) has no effect: {_CLIENTS_OWN[name]}")
        elif name in _SAMPLING:
            sampling[_SAMPLING[name]] = value
        elif name == "function_calling" and "tool_fallback" not in entries:
            is_on = value.get("enabled", True) if isinstance(value, dict) else value
            entries["tool_fallback"] = (f"backend.{key}", is_on)
        elif (name := "tool_fallback" if name == "function_calling" else name) in entries:
            warnings.append(f"backend.{key} ({path.name}) has no effect beside {entries[name][0]}")
        else:
            entries[name] = (f"backend.{key}", value)
    if sampling:
        key, given = entries.get("override_generation_config", ("backend", {}))
        given = parse_json_object(given) if isinstance(given, str) else given
        entries["override_generation_config"] = (key, sampling | (given if isinstance(given, dict) else {}))


def _yaml_text(value: Any) -> str:
    """The value as it would stand on the command line."""
    is_json = value is None or isinstance(value, bool | int | float | dict | list)
    return json.dumps(value, default=str) if is_json else str(value)


def _option_setting(key: str, value: str, origin: str, warnings: list[str]) -> Setting:
    """`key` as written in a file or made of a variable's name, under its canonical name."""
    bare = key.removeprefix("option.")
    name = "entryPoint" if bare == "entry_point" else bare.replace("-", "_")
    setting = _named(name, value, origin)
    if not setting.known:
        return Setting(bare, value, origin, known=False)
    if name != bare:
        warnings.append(f"{key} ({origin}) is read as {name}")
    if name == "model":
        warnings.append(f"{key} ({origin}) is read as option.model_id")
    row = options().get(name)
    if bare == key and not past.is_known(name) and (row is None or row.table is LmiOptions):
        warnings.append(f"{key} ({origin}) is read as option.{name}: the prefix is missing")
    return replace(setting, spelling=name)


def _named(name: str, value: str, origin: str) -> Setting:
    row = options().get(name)
    known = row is not None or name in arguments() or past.is_known(name)
    return Setting(row.canonical if row else name, value, origin, known)


def _refuse_disagreement(settings: Sequence[Setting]) -> None:
    """Two spellings of one option in one file must say the same."""
    seen: dict[str, Setting] = {}
    problems = []
    for setting in settings:
        other = seen.setdefault(setting.name, setting)
        if other.text != setting.text:
            first, second = (f"{one.spelling}={masked(one.name, one.text)}" for one in (other, setting))
            problems.append(
                Problem("CONFLICT", f"{first} and {second} set the same option",
                        f"{other.origin} and {setting.origin}", "keep one of the two")
            )  # fmt: skip
    if problems:
        raise ConfigError(problems)
