# SPDX-License-Identifier: Apache-2.0
"""`resolve`: variables, flags and files of one machine to one `ResolvedConfig`, or a `ConfigError` with all problems.

A pure function of its arguments; imports neither vLLM nor HTTP. Called by `cli.py` and by the conformance tests.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from serving.config import devices
from serving.config import model as model_location
from serving.config.command_line import scan
from serving.config.host import Host
from serving.config.layers import read_layers, report_overridden
from serving.config.options import LmiOptions, ServerSettings, options
from serving.config.sources import Effective, merge
from serving.config.values import NONE, NotWholeNumber, is_json_object
from serving.config.vllm_arguments import REFUSED, arguments
from serving.errors import ConfigError, Problem

_GIB = 1024**3
_T = TypeVar("_T", LmiOptions, ServerSettings)


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """Everything that was decided before vLLM is asked.

    Attributes:
        model_name: the endpoint's name (`/predictions/{model_name}`).
        model_dir: directory with the model's own files, or None for a hub id alone.
        adapters: name to directory of the LoRA adapters to load at start.
        vllm_arguments: argument name to typed value; what is absent keeps vLLM's default.
        options: LMI's options, typed.
        server: the server's own settings, typed.
        environment: variables to set before vLLM is imported.
        effective: every value given, with its origin and what it overrode.
        warnings: sentences for the log.
    """

    model_name: str
    model_dir: Path | None
    adapters: Mapping[str, Path]
    vllm_arguments: Mapping[str, Any]
    options: LmiOptions
    server: ServerSettings
    environment: Mapping[str, str]
    effective: Mapping[str, Effective]
    warnings: Sequence[str] = field(default=())

    @property
    def served_model_names(self) -> list[str]:
        """Names that OpenAI bodies may use; the first one is the default and stands in answers."""
        return list(self.vllm_arguments["served_model_name"])


def resolve(env: Mapping[str, str], argv: Sequence[str], host: Host, demo_dir: Path) -> ResolvedConfig:
    """One configuration from all sources.

    Args:
        env: environment variables.
        argv: arguments after the command word.
        host: the machine.
        demo_dir: what `--demo` serves.

    Raises:
        ConfigError: with every problem found.
    """
    line = scan(argv)
    if line.problems:
        raise ConfigError(line.problems)
    problems: list[Problem] = []
    warnings: list[str] = []
    location, layers = read_layers(line, env, host, demo_dir, warnings)
    effective = merge(layers)
    warnings += _unknown(effective)
    report_overridden(effective, problems, warnings)
    given = {name: entry for name, entry in effective.items() if entry.setting.known}
    lmi = _table(LmiOptions, given, problems)
    server = _table(ServerSettings, given, problems)
    passed = _pass_through(given, problems, warnings)
    if problems or lmi is None or server is None:
        raise ConfigError(problems)
    if lmi.model_id is None:
        raise model_location.nothing_to_serve(location)
    model_location.check_model_id(lmi.model_id, effective["model"].setting.origin, host)
    if key := env.get("VLLM_API_KEY"):
        # Any of the keys opens, wherever it was given.
        passed["api_key"] = list(dict.fromkeys([*passed.get("api_key", []), key]))
    values = passed | _engine_arguments(lmi, lmi.model_id, passed, host, warnings)
    if not lmi.async_mode:
        warnings.append("option.async_mode=false has no effect: the async mode is the only one")
    devices.check(values, host, warnings)
    _check_files(values, host, problems)
    adapters = _adapters(location.directory)
    if adapters and not lmi.enable_lora:
        warnings.append(f"adapters {', '.join(adapters)} are not served; option.enable_lora=true would serve them")
    if problems:
        raise ConfigError(problems)
    return ResolvedConfig(
        model_name=model_location.endpoint_name(location, lmi.model_id),
        model_dir=location.directory,
        adapters=adapters if lmi.enable_lora else {},
        vllm_arguments=values | _defaults(values, location.given or lmi.model_id, env, host),
        options=lmi,
        server=server,
        environment=_environment(env, host, line.demo),
        effective=effective,
        warnings=warnings,
    )


def _unknown(effective: Mapping[str, Effective]) -> list[str]:
    """One warning per name that neither LMI nor vLLM knows, with the nearest name that one of them does."""
    known = [*options(), *arguments()]
    warnings = []
    for name, entry in effective.items():
        if not entry.setting.known:
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
            hint = f"; did you mean {near[0]}?" if near else ""
            warnings.append(f"unknown option {name} ({entry.setting.origin}) has no effect{hint}")
    return warnings


def _table(table: type[_T], given: Mapping[str, Effective], problems: list[Problem]) -> _T | None:
    """The rows of `table` that somebody set, typed; each value that does not fit is a problem."""
    rows = {row.name: row.canonical for row in options().values() if row.table is table}
    texts = {name: given[canonical].setting.text for name, canonical in rows.items() if canonical in given}
    try:
        return table.model_validate({name: text for name, text in texts.items() if text.strip().lower() not in NONE})
    except ValidationError as error:
        for fault in error.errors():
            name = str(fault["loc"][0])
            text = fault["msg"].removeprefix("Value error, ")
            kind = "BAD_INT" if isinstance(fault.get("ctx", {}).get("error"), NotWholeNumber) else "VALIDATION"
            problems.append(Problem(kind, f"{name}={texts[name]!r}: {text}", given[rows[name]].setting.origin))
        return None


def _pass_through(given: Mapping[str, Effective], problems: list[Problem], warnings: list[str]) -> dict[str, Any]:
    """Arguments of vLLM that no LMI option stands for, typed by the snapshot."""
    values: dict[str, Any] = {}
    for name, entry in given.items():
        argument = arguments().get(name)
        if argument is None or name in options():
            continue
        text, origin = entry.setting.text, entry.setting.origin
        if name in REFUSED:
            problems.append(Problem("UNSUPPORTED", f"{name} is not supported", origin, REFUSED[name]))
            continue
        try:
            value = argument.parse(text)
        except ValueError as error:
            problems.append(Problem("ARGPARSE", f"{name}={text!r}: {error}", origin))
            continue
        if value is not None:
            values[name] = value
        if isinstance(value, dict) and not is_json_object(text):
            warnings.append(f"{name} ({origin}) is not JSON; it is read as {json.dumps(value)}")
    return values


def _quantization(method: str | None, host: Host, warnings: list[str]) -> str | None:
    """vLLM's name of the method; its `fp8` has no CPU kernel, `fp8_per_channel` has."""
    if method == "fp8" and host.device_count == 0:
        warnings.append("quantize=fp8 is fp8_per_channel on CPU")
        return "fp8_per_channel"
    return method


def _engine_arguments(
    lmi: LmiOptions, model: str, passed: Mapping[str, Any], host: Host, warnings: list[str]
) -> dict[str, Any]:
    """LMI's options in vLLM's words."""
    return {
        "model": model,
        "revision": lmi.revision,
        "trust_remote_code": lmi.trust_remote_code,
        "dtype": lmi.dtype,
        "quantization": _quantization(lmi.quantize, host, warnings),
        "tensor_parallel_size": devices.tensor_parallel_size(lmi.tensor_parallel_degree, passed, host),
        "max_num_seqs": lmi.max_rolling_batch_size,
        "enable_lora": lmi.enable_lora,
        # vLLM's CPU kernels give rows without an adapter the one in the last slot, so that slot must stay empty.
        "max_loras": lmi.max_loras + (1 if lmi.enable_lora and host.device_count == 0 else 0),
    }


def _defaults(values: Mapping[str, Any], given: str, env: Mapping[str, str], host: Host) -> dict[str, Any]:
    """Values for vLLM arguments that nobody set and whose vLLM default does not fit this server.

    `given` is the model as the user wrote it, which is how clients of `vllm serve` name it.
    """
    defaults: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 8080,
        "served_model_name": list(dict.fromkeys(["lmi", given])),
        "shutdown_timeout": 15,
    }
    if host.device_count == 0:
        if "VLLM_CPU_KVCACHE_SPACE" not in env and "gpu_memory_utilization" not in values:
            # vLLM would ask for 92 % of the machine's memory.
            defaults["kv_cache_memory_bytes"] = min(4 * _GIB, host.memory_bytes // 4)
        if not host.can_compile:
            defaults["enforce_eager"] = True
    return {name: value for name, value in defaults.items() if name not in values}


def _check_files(values: Mapping[str, Any], host: Host, problems: list[Problem]) -> None:
    """TLS files are read when the server starts to listen, which would be minutes too late to complain."""
    for name in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs"):
        if (path := values.get(name)) and not host.path(path).is_file():
            problems.append(Problem("NOT_FOUND", f"{name}={path!r} is not a file"))


def _adapters(model_dir: Path | None) -> dict[str, Path]:
    """Name to directory of every adapter in `adapters/` beside the model, by name."""
    if model_dir is None:
        return {}
    return {config.parent.name: config.parent for config in sorted(model_dir.glob("adapters/*/adapter_config.json"))}


def _environment(env: Mapping[str, str], host: Host, is_demo: bool) -> dict[str, str]:
    """Variables vLLM reads at import; what the user set stays."""
    wanted = {"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_MAX_STOP_STRINGS": "1024"}
    if host.device_count == 0 and is_demo:
        # One process less to start; a model of this size gains nothing from threads bound to cores.
        wanted["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if host.device_count == 0 and not host.can_compile:
        wanted["TORCHDYNAMO_DISABLE"] = "1"
    return {name: value for name, value in wanted.items() if name not in env}
