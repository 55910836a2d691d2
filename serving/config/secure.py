# SPDX-License-Identifier: Apache-2.0
"""SageMaker's secure mode: what may not be in directories that are not trusted. Called by `resolve.py`.

`SAGEMAKER_SECURE_MODE=true` with the list `SAGEMAKER_SECURITY_CONTROLS`, and `SAGEMAKER_UNTRUSTED_CHANNELS`, the
directories. Beside the controls, only options of a list may be given.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.config.host import Host
from serving.config.options import LmiOptions, options
from serving.config.sources import Effective
from serving.errors import Problem

_MODE, _CONTROLS, _CHANNELS = (
    "SAGEMAKER_SECURE_MODE",
    "SAGEMAKER_SECURITY_CONTROLS",
    "SAGEMAKER_UNTRUSTED_CHANNELS",
)
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_IMPORTING = (("kv_transfer_config", "kv_connector_module_path"), ("compilation_config", "backend"))
"""Arguments of vLLM with a key whose value is imported."""
_PYTHONS = frozenset({"/usr/bin/python3", "/opt/djl/vllm_venv/bin/python"})
_ALLOWED = frozenset({
    # LMI's
    *("engine", "model_id", "revision", "task", "dtype", "quantize", "trust_remote_code", "rolling_batch"),
    *("async_mode", "entryPoint", "handler", "env", "normalize", "tensor_parallel_degree", "pipeline_parallel_degree"),
    *("max_rolling_batch_size", "max_rolling_batch_prefill_tokens", "cpu_offload_gb_per_gpu", "pythonExecutable"),
    *("enable_lora", "max_loras", "long_lora_scaling_factors", "lora_extra_vocab_size", "adapters"),
    *("output_formatter", "tgi_compat", "bedrock_compat", "predict_timeout", "model_loading_timeout"),
    *("enable_reasoning", "lmcache_config_file", "lmcache_auto_config", "load_in_8bit", "load_in_4bit"),
    *("enable_stateful_sessions", "sessions_path", "sessions_expiration", "sessions_s3url", "enable_venv"),
    *("job_queue_size", "batch_size", "max_batch_delay", "minWorkers", "maxWorkers", "gpu.minWorkers"),
    *("gpu.maxWorkers", "cpu.minWorkers", "cpu.maxWorkers", "load_on_devices", "retry_threshold", "max_request_size"),
    *("chunked_read_timeout", "inference_address", "management_address", "model_store", "load_models"),
    # vLLM's
    *("max_model_len", "gpu_memory_utilization", "enforce_eager", "load_format", "tokenizer", "tokenizer_mode"),
    *("tokenizer_revision", "enable_prefix_caching", "enable_chunked_prefill", "limit_mm_per_prompt", "seed"),
    *("speculative_config", "max_lora_rank", "max_cpu_loras", "lora_dtype", "fully_sharded_loras", "block_size"),
    *("enable_auto_tool_choice", "tool_call_parser", "reasoning_parser", "kv_transfer_config", "kv_cache_dtype"),
    *("served_model_name", "max_logprobs", "disable_log_stats", "data_parallel_size", "enable_expert_parallel"),
    *("compilation_config", "generation_config", "override_generation_config", "hf_overrides", "runner", "convert"),
    *("pooler_config", "chat_template_content_format", "shutdown_timeout"),
    # Ours
    *("strict", "custom_handler_fallback", "default_engine", "handler_strict_types", "adapter_roots", "api_key"),
    *("lmi_default_greedy", "invocations_api", "shutdown_delay"),
})  # fmt: skip
"""Options that may be given in secure mode, by LMI's name."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a start would use.

    Attributes:
        lmi: the options.
        values: vLLM's arguments.
        model_dirs: of the model.
        adapters: directories of the adapters beside it.
    """

    lmi: LmiOptions
    values: Mapping[str, Any]
    model_dirs: Sequence[Path]
    adapters: Sequence[Path]


def check(
    start: Start, effective: Mapping[str, Effective], env: Mapping[str, str], host: Host, problems: list[Problem]
) -> None:
    """Adds what secure mode forbids; nothing where it is off."""
    if not _is_on(env):
        return
    if _CONTROLS not in env:
        remedy = f"name one or more of {', '.join(_CHECKS)}"
        problems.append(Problem("VALIDATION", f"{_MODE}=true needs {_CONTROLS}", remedy=remedy))
        return
    channels = [host.path(word.strip()) for word in env.get(_CHANNELS, "").split(",") if word.strip()]
    for channel in channels:
        if not channel.is_dir():
            problems.append(Problem("NOT_FOUND", f"{_CHANNELS}: {host.text(channel)} is not a directory"))
    # What was extracted or fetched came from where it is not trusted.
    channels += [path for path in start.model_dirs if path.is_relative_to(host.cache(env))]
    for control in _controls(env):
        if control not in _CHECKS:
            text = f"{_CONTROLS}={control}: there is no such control"
            problems.append(Problem("VALIDATION", text, remedy=f"use some of {', '.join(_CHECKS)}"))
            continue
        problems += [Problem("UNSUPPORTED", text, control) for text in _CHECKS[control](start, channels)]
    problems += _not_allowed(start.lmi, effective)


def allows_code(env: Mapping[str, str]) -> bool:
    """Adapters that come later may bring a `model.py`."""
    return not (_is_on(env) and "DISALLOW_CUSTOM_INFERENCE_SCRIPTS" in _controls(env))


def _controls(env: Mapping[str, str]) -> list[str]:
    return [word.strip() for word in env.get(_CONTROLS, "").split(",") if word.strip()]


def _is_on(env: Mapping[str, str]) -> bool:
    return env.get(_MODE, "").strip().lower() == "true"


def _not_allowed(lmi: LmiOptions, effective: Mapping[str, Effective]) -> Iterator[Problem]:
    """Options of the model; whoever starts the server with flags, or sets its own keys, may do so."""
    for name, entry in effective.items():
        row = options().get(name)
        is_models = entry.setting.origin.startswith(("serving.properties", "OPTION_", "HF_"))
        if is_models and (row.name if row is not None else name) not in _ALLOWED:
            yield Problem("UNSUPPORTED", f"{name} may not be set in secure mode", entry.setting.origin)
    if lmi.python_executable is not None and lmi.python_executable not in _PYTHONS:
        yield Problem("UNSUPPORTED", f"pythonExecutable={lmi.python_executable!r} may not be used in secure mode")


def _remote_code(start: Start, channels: Sequence[Path]) -> Iterator[str]:
    if start.lmi.trust_remote_code:
        yield "trust_remote_code=true"


def _scripts(start: Start, channels: Sequence[Path]) -> Iterator[str]:
    """Files with code, and options that name code to import."""
    entry_point = start.lmi.entry_point
    if entry_point is not None and not entry_point.startswith("djl_python."):
        yield f"entryPoint={entry_point}"
    scripts = [path / "model.py" for path in (*start.model_dirs, *start.adapters)]
    yield from (str(path) for path in scripts if path.is_file())
    for name in start.lmi.env:
        if name.startswith(("PYTHON", "LD_")) or name == "VLLM_PLUGINS":
            yield f"option.env sets {name}"
    for name, key in _IMPORTING:
        value = start.values.get(name)
        found = value.get(key) if isinstance(value, dict) else None
        if isinstance(found, str) and ("." in found or key.endswith("_path")):
            yield f"{name} has {key}={found}"


def _requirements(start: Start, channels: Sequence[Path]) -> Iterator[str]:
    yield from (str(path / "requirements.txt") for path in start.model_dirs if (path / "requirements.txt").is_file())


def _pickles(start: Start, channels: Sequence[Path]) -> Iterator[str]:
    for channel in channels:
        yield from (str(path) for path in sorted(channel.rglob("*")) if path.suffix in _PICKLES)


def _chat_templates(start: Start, channels: Sequence[Path]) -> Iterator[str]:
    for channel in channels:
        for path in sorted(channel.rglob("tokenizer_config.json")):
            try:
                found = json.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                found = {"chat_template": "unreadable"}
            if isinstance(found, dict) and found.get("chat_template"):
                yield f"{path} has a chat_template"
        yield from (str(path) for path in sorted(channel.rglob("chat_template.j*")))


_CHECKS: Mapping[str, Callable[[Start, Sequence[Path]], Iterator[str]]] = {
    "DISALLOW_TRUST_REMOTE_CODE": _remote_code,
    "DISALLOW_CUSTOM_INFERENCE_SCRIPTS": _scripts,
    "DISALLOW_REQUIREMENTS_TXT": _requirements,
    "DISALLOW_PICKLE_FILES": _pickles,
    "DISALLOW_CHAT_TEMPLATE": _chat_templates,
}
"""Each control, and what it finds."""
