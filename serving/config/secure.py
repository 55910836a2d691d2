# SPDX-License-Identifier: Apache-2.0
"""SageMaker's secure mode: what may not be in directories that are not trusted. Called by `resolve.py`.

`SAGEMAKER_SECURE_MODE=true` with the list `SAGEMAKER_SECURITY_CONTROLS`, and `SAGEMAKER_UNTRUSTED_CHANNELS`, the
directories. Beside the controls, only options of a list may be given.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

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


def check(
    lmi: LmiOptions,
    effective: Mapping[str, Effective],
    model_dir: Path | None,
    env: Mapping[str, str],
    host: Host,
    problems: list[Problem],
) -> None:
    """Adds what secure mode forbids; nothing where it is off."""
    if not _is_on(env):
        return
    if _CONTROLS not in env:
        problems.append(
            Problem("VALIDATION", f"{_MODE}=true needs {_CONTROLS}", remedy=f"one or more of {', '.join(_CHECKS)}")
        )
        return
    controls = [word.strip() for word in env[_CONTROLS].split(",") if word.strip()]
    channels = [host.path(word.strip()) for word in env.get(_CHANNELS, "").split(",") if word.strip()]
    for channel in channels:
        if not channel.is_dir():
            problems.append(Problem("NOT_FOUND", f"{_CHANNELS}: {host.text(channel)} is not a directory"))
    for control in controls:
        if control not in _CHECKS:
            text = f"{_CONTROLS}={control}: there is no such control"
            problems.append(Problem("VALIDATION", text, remedy=f"use some of {', '.join(_CHECKS)}"))
            continue
        problems += [Problem("UNSUPPORTED", text, control) for text in _CHECKS[control](lmi, model_dir, channels)]
    problems += _not_allowed(lmi, effective)


def allows_code(env: Mapping[str, str]) -> bool:
    """Adapters that come later may bring a `model.py`."""
    return not (_is_on(env) and "DISALLOW_CUSTOM_INFERENCE_SCRIPTS" in env.get(_CONTROLS, ""))


def _is_on(env: Mapping[str, str]) -> bool:
    return env.get(_MODE, "").strip().lower() == "true"


def _not_allowed(lmi: LmiOptions, effective: Mapping[str, Effective]) -> Iterator[Problem]:
    for name, entry in effective.items():
        row = options().get(name)
        if (row.name if row is not None else name) not in _ALLOWED:
            yield Problem("UNSUPPORTED", f"{name} may not be set in secure mode", entry.setting.origin)
    if lmi.python_executable is not None and lmi.python_executable not in _PYTHONS:
        yield Problem("UNSUPPORTED", f"pythonExecutable={lmi.python_executable!r} may not be used in secure mode")


def _remote_code(lmi: LmiOptions, model_dir: Path | None, channels: list[Path]) -> Iterator[str]:
    if lmi.trust_remote_code:
        yield "trust_remote_code=true"


def _scripts(lmi: LmiOptions, model_dir: Path | None, channels: list[Path]) -> Iterator[str]:
    if lmi.entry_point is not None and not lmi.entry_point.startswith("djl_python."):
        yield f"entryPoint={lmi.entry_point}"
    if model_dir is not None:
        yield from (
            str(path) for path in [model_dir / "model.py", *model_dir.glob("adapters/*/model.py")] if path.is_file()
        )


def _requirements(lmi: LmiOptions, model_dir: Path | None, channels: list[Path]) -> Iterator[str]:
    if model_dir is not None and (path := model_dir / "requirements.txt").is_file():
        yield str(path)


def _pickles(lmi: LmiOptions, model_dir: Path | None, channels: list[Path]) -> Iterator[str]:
    for channel in channels:
        yield from (str(path) for path in sorted(channel.rglob("*")) if path.suffix in _PICKLES)


def _chat_templates(lmi: LmiOptions, model_dir: Path | None, channels: list[Path]) -> Iterator[str]:
    for channel in channels:
        for path in sorted(channel.rglob("tokenizer_config.json")):
            try:
                found = json.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                found = {"chat_template": "unreadable"}
            if isinstance(found, dict) and found.get("chat_template"):
                yield f"{path} has a chat_template"
        yield from (str(path) for path in sorted(channel.rglob("chat_template.j*")))


_CHECKS: Mapping[str, Callable[[LmiOptions, Path | None, list[Path]], Iterator[str]]] = {
    "DISALLOW_TRUST_REMOTE_CODE": _remote_code,
    "DISALLOW_CUSTOM_INFERENCE_SCRIPTS": _scripts,
    "DISALLOW_REQUIREMENTS_TXT": _requirements,
    "DISALLOW_PICKLE_FILES": _pickles,
    "DISALLOW_CHAT_TEMPLATE": _chat_templates,
}
"""Each control, and what it finds."""
