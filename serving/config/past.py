# SPDX-License-Identifier: Apache-2.0
"""Names of vLLM's past and of LMI's other backends: what they are read as, or why they have no effect.

Called by `resolve.py` for what neither LMI's options nor vLLM's arguments know any more, and by `command_line.py` for
flags that `vllm serve` once had. A warning tells the user, and what is set by its present name wins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from serving.config.masking import masked
from serving.config.values import NONE, parse_bool, parse_float, parse_int, parse_json_object, parse_list
from serving.config.vllm_arguments import VllmArgument
from serving.errors import Problem

if TYPE_CHECKING:
    from serving.config.sources import Effective

_OTHER_BACKEND = "it belongs to another backend of LMI"
_OFFLINE = "it belongs to quantization ahead of time; save the model quantized instead"
_SCHEDULER = "vLLM's scheduler has no such setting any more"
_WORKERS = "there is one engine, which starts with the server"
_JAVA = "it configures LMI's Java server"
_CACHE = "asynchronous results are kept in this server's memory, within memory_cache_capacity"

IGNORED: Mapping[str, str] = {
    "device": "vLLM finds out by itself",
    "swap_space": "vLLM computes again what it evicts; kv_offloading_size keeps a KV cache in CPU memory",
    **dict.fromkeys(
        ("max_seq_len_to_capture", "max_context_len_to_capture"),
        "graphs are captured by the number of tokens in a step, not by length",
    ),
    **dict.fromkeys(
        ("tokenizer_pool_size", "tokenizer_pool_type", "tokenizer_pool_extra_config"),
        "texts are split into tokens beside the event loop as it is",
    ),
    **dict.fromkeys(
        (
            *("ngram_prompt_lookup_max", "ngram_prompt_lookup_min", "spec_decoding_acceptance_method"),
            *("speculative_disable_by_batch_size", "typical_acceptance_sampler_posterior_threshold"),
            *("typical_acceptance_sampler_posterior_alpha", "speculative_max_model_len"),
        ),
        "speculative_config has the settings of speculation",
    ),
    "preemption_mode": "vLLM computes again what it evicts",
    "guided_decoding_disable_fallback": "vLLM has no fallback there any more",
    **dict.fromkeys(
        (
            *("use_v2_block_manager", "num_scheduler_steps", "multi_step_stream_outputs", "scheduler_delay_factor"),
            *("disable_async_output_proc", "max_num_partial_prefills", "max_long_partial_prefills"),
            *("num_lookahead_slots", "disable_frontend_multiprocessing"),
        ),
        _SCHEDULER,
    ),
    **dict.fromkeys(
        ("enable_prompt_adapter", "max_prompt_adapters", "max_prompt_adapter_token", "enable_lora_bias"),
        "vLLM serves LoRA adapters without a bias only",
    ),
    "qlora_adapter_name_or_path": "vLLM serves no QLoRA adapters; use option.enable_lora",
    "logits_processor_pattern": "logits_processors names the classes themselves",
    **dict.fromkeys(
        ("override_attention_dtype", "calculate_kv_scales", "override_neuron_config"),
        "vLLM has no such setting any more",
    ),
    "disable_log_requests": "vLLM logs requests only with enable_log_requests=true",
    **dict.fromkeys(
        (
            *("is_peft_model", "device_map", "low_cpu_mem_usage", "disable_flash_attn", "data_type", "stop_sequence"),
            *("mpi_mode", "waiting_steps", "modelName", "enable_streaming", "model_loading_workers"),
        ),
        _OTHER_BACKEND,
    ),
    **dict.fromkeys(
        (
            *("awq_bits", "awq_group_size", "awq_mm_version", "awq_zero_point", "awq_ignore_layers"),
            *("fp8_scheme", "fp8_ignore", "smoothquant_alpha", "smoothquant_per_token", "smoothquant_per_channel"),
            *("calib_size", "calib_batch_size"),
        ),
        _OFFLINE,
    ),
    "max_new_tokens": "it is a parameter of requests",
    "input_formatter": "formatters are functions of model.py (docs/custom-handlers.md)",
    **dict.fromkeys(("keystore_pass", "keystore_type"), "certificates are read as PEM here"),
    "wait_model_loading": "the port opens once the model is loaded",
    "allow_multi_status": "the port opens once the model is loaded",
    "health_check_override": "a server whose engine died ends, and its container is started again",
    "error_rate_model": "LMI counts nothing for it; see error_rate_any",
    "model_url_pattern": "models are not loaded on demand",
    **dict.fromkeys(("log_request_metric", "metrics_aggregation"), "metrics are at /metrics"),
    "max_output_size": "answers have no limit of size",
    "parallel_loading": _WORKERS,
    "max_idle_time": _WORKERS,
    **dict.fromkeys(
        ("required_memory_mb", "reserved_memory_mb", "gpu.required_memory_mb", "gpu.reserved_memory_mb"),
        "vLLM checks memory itself; gpu_memory_utilization says how much it takes",
    ),
    **dict.fromkeys(
        (
            *("cluster_address", "plugin_folder", "number_of_netty_threads", "netty_client_threads", "use_native_io"),
            *("io_ratio", "translatorFactory", "application", "pooling", "reranking", "includeTokenTypes"),
            *("max_dynamic_batch_size", "retry_interval"),
        ),
        _JAVA,
    ),
    **dict.fromkeys(
        (
            *("cache_entry_limit", "cache_limit", "cache_multitenant", "cache_cleanup_interval"),
            *("ddb_cache", "ddb_table_name", "s3_cache_bucket", "s3_cache_key_prefix"),
            *("s3_cache_autocreate", "s3_cache_multitenant"),
        ),
        _CACHE,
    ),
    "cache_batch": "every piece of an asynchronous result can be fetched as soon as it is there",
}
"""Name without `option.`, to the reason why it has no effect."""


REFUSED: Mapping[str, str] = {
    "keystore": "convert it to PEM (openssl pkcs12 -in KEYSTORE -out server.pem -nodes) and set certificate_file and "
    "private_key_file",
}
"""What would be dangerous to leave out, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """What a name of the past is read as.

    Attributes:
        argument: of vLLM today.
        key: of that argument's JSON object; empty where the value is the argument's own.
        read: the text to the value.
    """

    argument: str
    key: str = ""
    read: Callable[[str], Any] = str


def _graph_sizes(text: str) -> list[str]:
    """A list as it is; one number meant every eighth size up to it."""
    sizes = [parse_int(item) for item in parse_list(text)]
    if len(sizes) == 1:
        sizes = [size for size in (1, 2, 4, *range(8, sizes[0] + 1, 8)) if size <= sizes[0]]
    return [str(size) for size in sizes]


_ROPE = Replaced("hf_overrides", "rope_parameters", parse_json_object)
REPLACED: Mapping[str, Replaced] = {
    "guided_decoding_backend": Replaced("structured_outputs_config", "backend", lambda text: text.split(":")[0]),
    "guided_decoding_disable_any_whitespace": Replaced(
        "structured_outputs_config", "disable_any_whitespace", parse_bool
    ),
    "guided_decoding_disable_additional_properties": Replaced(
        "structured_outputs_config", "disable_additional_properties", parse_bool
    ),
    "cuda_graph_sizes": Replaced("cudagraph_capture_sizes", read=_graph_sizes),
    "rope_scaling": _ROPE,
    "rope_theta": Replaced("hf_overrides", "rope_theta", parse_float),
    "override_pooler_config": Replaced("pooler_config", read=parse_json_object),
    "disable_mm_preprocessor_cache": Replaced(
        "mm_processor_cache_gb", read=lambda text: 0.0 if parse_bool(text) else None
    ),
    "enable_multimodal_encoder_data_parallel": Replaced(
        "mm_encoder_tp_mode", read=lambda text: "data" if parse_bool(text) else None
    ),
    "num_redundant_experts": Replaced("eplb_config", "num_redundant_experts", parse_int),
    "eplb_window_size": Replaced("eplb_config", "window_size", parse_int),
    "eplb_step_interval": Replaced("eplb_config", "step_interval", parse_int),
    "eplb_log_balancedness": Replaced("eplb_config", "log_balancedness", parse_bool),
    **dict.fromkeys(
        ("engine_use_ray", "worker_use_ray"),
        Replaced("distributed_executor_backend", read=lambda text: "ray" if parse_bool(text) else None),
    ),
    **dict.fromkeys(
        ("speculative_draft_model", "draft_model_id", "speculative_model"), Replaced("speculative_config", "model")
    ),
    **dict.fromkeys(
        ("speculative_length", "spec_length", "num_speculative_tokens"),
        Replaced("speculative_config", "num_speculative_tokens", parse_int),
    ),
    **dict.fromkeys(
        ("draft_model_tp_size", "speculative_draft_tensor_parallel_size"),
        Replaced("speculative_config", "draft_tensor_parallel_size", parse_int),
    ),
}
"""Name without `option.`, to what stands for it in vLLM 0.32."""

_SWITCHES = (
    *("disable_async_output_proc", "disable_frontend_multiprocessing", "disable_log_requests"),
    *("enable_prompt_adapter", "enable_lora_bias", "use_v2_block_manager", "calculate_kv_scales", "enable_reasoning"),
    *("guided_decoding_disable_fallback", "guided_decoding_disable_any_whitespace"),
    *("guided_decoding_disable_additional_properties", "disable_mm_preprocessor_cache"),
    *("enable_multimodal_encoder_data_parallel", "eplb_log_balancedness", "engine_use_ray", "worker_use_ray"),
)
_WITH_VALUE = (
    *("device", "swap_space", "max_seq_len_to_capture", "preemption_mode", "num_scheduler_steps", "task"),
    *("scheduler_delay_factor", "max_num_partial_prefills", "max_long_partial_prefills", "num_lookahead_slots"),
    *("max_prompt_adapters", "max_prompt_adapter_token", "lora_extra_vocab_size", "long_lora_scaling_factors"),
    *("qlora_adapter_name_or_path", "logits_processor_pattern", "override_attention_dtype", "override_neuron_config"),
    *("guided_decoding_backend", "rope_scaling", "rope_theta", "override_pooler_config", "speculative_model"),
    *("num_speculative_tokens", "num_redundant_experts", "eplb_window_size", "eplb_step_interval"),
    *("max_context_len_to_capture", "tokenizer_pool_size", "tokenizer_pool_type", "tokenizer_pool_extra_config"),
    *("ngram_prompt_lookup_max", "ngram_prompt_lookup_min", "spec_decoding_acceptance_method"),
    *("speculative_disable_by_batch_size", "typical_acceptance_sampler_posterior_threshold"),
    *("typical_acceptance_sampler_posterior_alpha", "speculative_max_model_len"),
    "speculative_draft_tensor_parallel_size",
)
FLAGS: Mapping[str, str] = {
    **dict.fromkeys(_SWITCHES, "bool"),
    **dict.fromkeys(_WITH_VALUE, "str"),
    "multi_step_stream_outputs": "str_or_switch",
    "cuda_graph_sizes": "list",
}
"""Flags that `vllm serve` has no more, by name, to how their values stood on the command line (`values.PARSERS`)."""

_DEFAULT_DRAFT_TOKENS = 4
"""LMI's, where only the draft model was named."""


def arguments_of(
    given: Mapping[str, "Effective"], passed: Mapping[str, Any], problems: list[Problem], warnings: list[str]
) -> dict[str, Any]:
    """vLLM's arguments that stand for names of the past in `given`; those in `passed` are set already, and win."""
    found: dict[str, Any] = {}
    for name, entry in given.items():
        text, origin = entry.setting.text, entry.setting.origin
        if (remedy := REFUSED.get(name)) is not None:
            problems.append(Problem("UNSUPPORTED", f"{name} is not read", origin, remedy))
        if (reason := IGNORED.get(name)) is not None:
            warnings.append(f"{name} ({origin}) has no effect: {reason}")
        if (replaced := REPLACED.get(name)) is None or text.strip().lower() in NONE:
            continue
        if replaced.argument in passed:
            warnings.append(f"{name} ({origin}) has no effect beside {replaced.argument}")
            continue
        try:
            value = replaced.read(text)
        except ValueError as error:
            problems.append(Problem("VALIDATION", f"{name}={masked(name, text)!r}: {error}", origin))
            continue
        if value is None:
            continue
        if replaced.key:
            found.setdefault(replaced.argument, {})[replaced.key] = value
        else:
            found[replaced.argument] = value
        shown = f"{replaced.argument}.{replaced.key}" if replaced.key else replaced.argument
        warnings.append(f"{name} ({origin}) is read as {shown}={value}: vLLM has renamed it")
    draft = found.get("speculative_config")
    if draft is not None and "model" not in draft:
        warnings.append("the number of speculative tokens has no effect without a draft model")
        del found["speculative_config"]
    elif draft is not None:
        draft.setdefault("num_speculative_tokens", _DEFAULT_DRAFT_TOKENS)
    return found


def is_known(name: str) -> bool:
    """Somebody who sets this name is told what becomes of it."""
    return name in IGNORED or name in REPLACED or name in REFUSED


@cache
def by_flag() -> Mapping[str, VllmArgument]:
    """Every flag of the past, with dashes, to what it was."""
    found: dict[str, VllmArgument] = {}
    for name, kind in FLAGS.items():
        words = name.replace("_", "-")
        flags = (f"--{words}", f"--no-{words}") if kind == "bool" else (f"--{words}",)
        found |= dict.fromkeys(flags, VllmArgument(name, flags, kind, choices=None, frontend=False))
    return found
