# SPDX-License-Identifier: Apache-2.0
"""`resolve`: variables, flags and files of one machine to one `ResolvedConfig`, or a `ConfigError` with all problems.

A pure function of its arguments; imports neither vLLM nor HTTP. Called by `cli.py` and by the conformance tests.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from serving.config import addresses, devices, lmcache, mode, past, prompting, secure
from serving.config import model as model_location
from serving.config.addresses import Address
from serving.config.command_line import CommandLine, scan
from serving.config.host import Host, absolute
from serving.config.layers import read_layers, report_overridden
from serving.config.limits import Limits, limits
from serving.config.masking import masked
from serving.config.mode import Mode
from serving.config.options import LmiOptions, ServerSettings, engine_values, options
from serving.config.sources import Effective, merge
from serving.config.translate import engine_arguments
from serving.config.values import NONE, is_json_object
from serving.config.vllm_arguments import REFUSED, arguments
from serving.errors import ConfigError, Problem

_PATHS = ("uds", "download_dir")
_FILES = (
    *("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "tokenizer", "hf_config_path"),
    *("generation_config", "tool_parser_plugin", "reasoning_parser_plugin"),
)
"""Arguments of vLLM that are a path, and those that may be one."""
_GIB = 1024**3
_CPU_CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's variable for the size of its KV cache on a CPU, in GiB."""
_ON_SAGEMAKER = "/opt/ml/.sagemaker_infra/endpoint-metadata.json"
"""A file of the platform's, which names a request by a header of its own."""
_T = TypeVar("_T", LmiOptions, ServerSettings)


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """Everything that was decided before vLLM is asked.

    Attributes:
        model_name: the endpoint's name (`/predictions/{model_name}`).
        mode: which of LMI's modes answers.
        model_dir: directory with the model's own files, or None for a hub id alone.
        adapters: name to directory of the LoRA adapters to load at start.
        adapter_roots: directories, and prefixes of what is downloaded, under which adapters given over HTTP must lie.
        downloads: where to keep what is downloaded.
        allows_adapter_code: adapters given over HTTP may bring formatters.
        vllm_arguments: argument name to typed value; what is absent keeps vLLM's default.
        options: LMI's options, typed.
        server: the server's own settings, typed.
        limits: how much is taken on, and how long is waited.
        environment: variables to set before vLLM is imported.
        worker_environment: variables to set for the process that runs a custom handler.
        has_model: there is something to load; a model directory may hold nothing but code.
        has_devices: there are GPUs.
        effective: every value given, with its origin and what it overrode.
        warnings: sentences for the log.
        model_version: the version that was given with the name; empty for none.
        management: where management routes are, if not at the address of the others.
        is_tls: inference uses the certificate.
        port_file: gets the port once the server is ready.
    """

    model_name: str
    mode: Mode
    model_dir: Path | None
    adapters: Mapping[str, Path]
    adapter_roots: Sequence[str]
    downloads: Path
    allows_adapter_code: bool
    vllm_arguments: Mapping[str, Any]
    options: LmiOptions
    server: ServerSettings
    limits: Limits
    environment: Mapping[str, str]
    worker_environment: Mapping[str, str]
    has_model: bool
    has_devices: bool
    effective: Mapping[str, Effective]
    warnings: Sequence[str] = field(default=())
    model_version: str = ""
    management: Address | None = None
    is_tls: bool = False
    port_file: Path | None = None

    @property
    def served_model_names(self) -> list[str]:
        """Names that OpenAI bodies may use; the first one is the default and stands in answers."""
        return list(self.vllm_arguments["served_model_name"])

    @property
    def logs_json(self) -> bool:
        """Log lines are JSON, as vLLM's `--logging-config.formatter json` asks for."""
        logging = self.vllm_arguments.get("logging_config")
        return isinstance(logging, Mapping) and logging.get("formatter") == "json"


def resolve(
    env: Mapping[str, str],
    argv: Sequence[str],
    host: Host,
    demo_dir: Path,
    output_formats: Collection[str] = (),
    port: int = addresses.PORT,
) -> ResolvedConfig:
    """One configuration from all sources.

    Args:
        env: environment variables.
        argv: arguments after the command word.
        host: the machine.
        demo_dir: what `--demo` serves.
        output_formats: what `output_formatter` may be; none: not checked here.
        port: where to listen unless something says otherwise.

    Raises:
        ConfigError: with every problem found.
    """
    return resolve_line(scan(argv), env, host, demo_dir, output_formats, port)


def resolve_line(
    line: CommandLine,
    env: Mapping[str, str],
    host: Host,
    demo_dir: Path,
    output_formats: Collection[str] = (),
    port: int = addresses.PORT,
) -> ResolvedConfig:
    """As `resolve`, of arguments that are read already."""
    if line.problems:
        raise ConfigError(line.problems)
    problems: list[Problem] = []
    warnings: list[str] = []
    location, layers = read_layers(line, env, host, demo_dir, warnings)
    effective = merge(layers)
    report_overridden(effective, problems, warnings)
    given = {name: entry for name, entry in effective.items() if entry.setting.known}
    lmi = _table(LmiOptions, given, problems, warnings)
    server = _table(ServerSettings, given, problems, warnings)
    passed = _pass_through(given, problems, warnings)
    passed |= past.arguments_of(given, passed, problems, warnings)
    if lmi is not None and output_formats and lmi.output_formatter not in (None, *output_formats):
        text = f"output_formatter={lmi.output_formatter!r}: expected one of {', '.join(output_formats)}"
        problems.append(Problem("VALIDATION", text, effective["output_formatter"].setting.origin))
    unknown = _unknown(effective)
    if lmi is not None and lmi.strict:
        problems += unknown
    warnings += [str(problem) for problem in unknown]
    if problems or lmi is None or server is None:
        raise ConfigError(problems)
    if lmi.model_id is None:
        raise model_location.nothing_to_serve(location)
    origin, fetched, model = effective["model"].setting.origin, None, lmi.model_id
    if model.startswith("s3://"):
        fetched = model_location.fetched(model, origin, host, host.cache(env))
        lmi = lmi.model_copy(update={"model_id": host.text(fetched)})
    elif location.directory is not None and not model.startswith(("/", "~")):
        beside = host.text(location.directory / model)
        lmi = lmi.model_copy(update={"model_id": beside}) if host.is_dir(beside) else lmi
    model = str(lmi.model_id)
    if "request_id_header_key" not in server.model_fields_set and host.path(_ON_SAGEMAKER).is_file():
        server = server.model_copy(update={"request_id_header_key": "X-Amzn-SageMaker-Inference-Id"})
    chosen, values, variables = Mode("async", ""), dict[str, Any](), dict[str, str]()
    with _collected(problems):
        model_location.check_model_id(model, origin, host)
    with _collected(problems):
        chosen = mode.choose(lmi, warnings)
    with _collected(problems):
        values, variables, host = _engine(lmi, server, passed, env, host, warnings)
        values |= addresses.listening(server, values, env, problems)
        prompting.check_parsers(values, lmi.enable_reasoning, problems, warnings)
        prompting.check_kv_transfer(values, problems)
        if template := values.get("chat_template"):
            values["chat_template"] = prompting.chat_template(template, location.directory, host, problems)
        variables |= lmcache.environment(lmi, server, values, location.directory, host, problems)
        _make_paths_absolute(values, host)
        _check_files(values, host, problems)
    listening = addresses.defaults(port, env)
    management = addresses.management(server, listening | values, problems)
    adapters = _adapters(fetched) | _adapters(location.directory)
    model_dirs = [path for path in (location.directory, fetched) if path is not None]
    secure.check(secure.Start(lmi, values, model_dirs, list(adapters.values())), effective, env, host, problems)
    warnings += _about(lmi, server, adapters)
    port_file = _port_file(line.port_file, "uds" in values, host, problems, warnings)
    if problems:
        raise ConfigError(problems)
    return ResolvedConfig(
        model_name=model_location.endpoint_name(location, model),
        mode=chosen,
        model_dir=location.directory,
        adapters=adapters if lmi.enable_lora else {},
        adapter_roots=_adapter_roots(lmi, location.directory, values, env, host),
        downloads=host.cache(env) / "download",
        allows_adapter_code=secure.allows_code(env),
        vllm_arguments=values | _defaults(listening, values, location.given or model, env, host),
        options=lmi,
        server=server,
        limits=limits(lmi, server, values),
        environment=_environment(env, host, line.demo) | variables | lmi.env,
        worker_environment=_worker_environment(env, host) | lmi.env,
        has_model=model_location.has_weights(model, host),
        has_devices=host.device_count > 0,
        effective=effective,
        warnings=warnings,
        model_version=location.version,
        management=management,
        is_tls=addresses.is_tls(server, values, management),
        port_file=port_file,
    )


def _port_file(
    given: str | None, is_unix: bool, host: Host, problems: list[Problem], warnings: list[str]
) -> Path | None:
    """Where the port is to be written, in a directory that is there."""
    if given is None:
        return None
    if is_unix:
        warnings.append("--port-file has no effect: the server listens on a Unix socket")
        return None
    path = Path(absolute(given))
    if host.is_dir(str(path)) or not host.is_dir(str(path.parent)):
        reason = "it is a directory" if host.is_dir(str(path)) else f"there is no directory {path.parent}"
        remedy = "name a file in a directory that exists"
        problems.append(Problem("NOT_FOUND", f"--port-file {given!r}: {reason}", remedy=remedy))
    return path


@contextmanager
def _collected(problems: list[Problem]) -> Iterator[None]:
    """A refusal inside is one of several."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def _engine(
    lmi: LmiOptions,
    server: ServerSettings,
    passed: Mapping[str, Any],
    env: Mapping[str, str],
    host: Host,
    warnings: list[str],
) -> tuple[dict[str, Any], dict[str, str], Host]:
    """vLLM's arguments, the variables for it, and the machine as far as it is left to the engine.

    Raises:
        ConfigError: options contradict each other, or ask for more than there is.
    """
    first_device = devices.first_device(server, host, warnings)
    variables = devices.from_device(first_device, host, env)
    host = replace(host, device_count=host.device_count - first_device)
    values = {**passed, **engine_arguments(lmi, str(lmi.model_id), passed, host, warnings)}
    values |= {name: value for name, value in engine_values(server).items() if value is not None}
    if key := env.get("VLLM_API_KEY"):
        # Any of the keys opens, wherever it was given.
        values["api_key"] = list(dict.fromkeys([*values.get("api_key", []), key]))
    if "data_parallel_size" not in passed:
        number = devices.copies(server, lmi, values, host, warnings)
        values |= {"data_parallel_size": number} if number > 1 else {}
    devices.check(values, host, warnings)
    return values, variables, host


def _about(lmi: LmiOptions, server: ServerSettings, adapters: Mapping[str, Path]) -> Iterator[str]:
    """Warnings about values that are read otherwise than written."""
    if server.engine == "MPI":
        yield "engine=MPI is read as engine=Python: vLLM starts its own processes"
    if lmi.adapters != "adapters":
        yield f"adapters={lmi.adapters} has no effect: they stand in adapters/ beside the model"
    if adapters and not lmi.enable_lora:
        yield f"adapters {', '.join(adapters)} are not served; option.enable_lora=true would serve them"


def _unknown(effective: Mapping[str, Effective]) -> list[Problem]:
    """One per name that neither LMI nor vLLM knows, with the nearest name that one of them does."""
    known = [*options(), *arguments()]
    found = []
    for name, entry in effective.items():
        if not entry.setting.known:
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.7)
            remedy = f"did you mean {near[0]}?" if near else ""
            found.append(Problem("VALIDATION", f"unknown option {name}", entry.setting.origin, remedy))
    return found


def _table(table: type[_T], given: Mapping[str, Effective], problems: list[Problem], warnings: list[str]) -> _T | None:
    """The rows of `table` that somebody set, typed; each value that does not fit is a problem."""
    rows = {row.name: row for row in options().values() if row.table is table and row.canonical in given}
    settings = {name: given[row.canonical].setting for name, row in rows.items()}
    texts = {name: setting.text for name, setting in settings.items() if setting.text.strip().lower() not in NONE}
    for name in texts:
        if reason := rows[name].no_effect:
            warnings.append(f"{name} ({settings[name].origin}) has no effect: {reason}")
    try:
        return table.model_validate(texts)
    except ValidationError as error:
        faults = {str(fault["loc"][0]): fault for fault in error.errors()}
    for name, fault in faults.items():
        text = f"{name}={masked(name, texts[name])!r}: {fault['msg'].removeprefix('Value error, ')}"
        if rows[name].is_lenient:
            warnings.append(f"{text} ({settings[name].origin}); the default is used")
        else:
            kind = getattr(fault.get("ctx", {}).get("error"), "kind", "VALIDATION")
            problems.append(Problem(kind, text, settings[name].origin, _remedy(texts[name])))
    if all(rows[name].is_lenient for name in faults):
        return table.model_validate({name: text for name, text in texts.items() if name not in faults})
    return None


def _remedy(text: str) -> str:
    """What most often is wrong with a value that does not fit."""
    return "a comment needs a line of its own" if re.search(r"\s#", text) else ""


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
            problems.append(Problem("ARGPARSE", f"{name}={masked(name, text)!r}: {error}", origin, _remedy(text)))
            continue
        if value is not None:
            values[name] = value
        if isinstance(value, dict) and not is_json_object(text):
            warnings.append(f"{name} ({origin}) is not JSON; it is read as {json.dumps(masked(name, value))}")
    return values


def _defaults(
    listening: Mapping[str, Any], values: Mapping[str, Any], given: str, env: Mapping[str, str], host: Host
) -> dict[str, Any]:
    """Values for vLLM arguments that nobody set and whose vLLM default does not fit this server.

    `listening` are those of the address; `given` is the model as the user wrote it, as clients of `vllm serve` name it.
    """
    defaults: dict[str, Any] = {
        **listening,
        "served_model_name": list(dict.fromkeys(["lmi", given])),
        "shutdown_timeout": 15,
    }
    if host.device_count == 0:
        if _CPU_CACHE not in env and "gpu_memory_utilization" not in values:
            defaults["kv_cache_memory_bytes"] = _cpu_cache_bytes(host)
        if not host.can_compile:
            defaults["enforce_eager"] = True
    return {name: value for name, value in defaults.items() if name not in values}


def _make_paths_absolute(values: dict[str, Any], host: Host) -> None:
    """The server may enter the model directory before these are read."""
    for name in (*_PATHS, *_FILES):
        text = values.get(name)
        if isinstance(text, str) and text and (name in _PATHS or host.path(text).exists()):
            values[name] = absolute(text)
    modules = [str(module).partition("=") for module in values.get("lora_modules") or ()]
    if modules and all(host.path(path).exists() for _, _, path in modules):
        values["lora_modules"] = [f"{name}={absolute(path)}" for name, _, path in modules]


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


def _cpu_cache_bytes(host: Host) -> int:
    """Room for the KV cache on a CPU, where vLLM would ask for 92 % of the machine's memory."""
    return min(4 * _GIB, host.memory_bytes // 4)


def _worker_environment(env: Mapping[str, str], host: Host) -> dict[str, str]:
    """A handler may make a `vllm.LLM` of its own, which fits beside this server's engine no better."""
    if host.device_count > 0 or _CPU_CACHE in env:
        return {}
    return {_CPU_CACHE: str(max(1, _cpu_cache_bytes(host) // _GIB))}


def _adapter_roots(
    given: LmiOptions, model_dir: Path | None, values: Mapping[str, Any], env: Mapping[str, str], host: Host
) -> list[str]:
    if given.adapter_roots is not None:
        roots = [root.strip() for root in given.adapter_roots.split(",") if root.strip()]
        return [root if "://" in root else str(host.path(root)) for root in roots]
    downloads = (
        values.get("download_dir") or env.get("HF_HUB_CACHE") or f"{env.get('HF_HOME', '~/.cache/huggingface')}/hub"
    )
    return [str(root) for root in (model_dir, host.path(str(downloads))) if root is not None]


def _environment(env: Mapping[str, str], host: Host, is_demo: bool) -> dict[str, str]:
    """Variables vLLM reads at import; what the user set stays."""
    wanted = {"VLLM_NO_USAGE_STATS": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn", "VLLM_MAX_STOP_STRINGS": "1024"}
    if host.device_count == 0 and is_demo:
        # One process less to start; a model of this size gains nothing from threads bound to cores.
        wanted["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if host.device_count == 0 and not host.can_compile:
        wanted["TORCHDYNAMO_DISABLE"] = "1"
    return {name: value for name, value in wanted.items() if name not in env}
