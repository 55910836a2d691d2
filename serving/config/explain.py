# SPDX-License-Identifier: Apache-2.0
"""What LMI would do otherwise with this very configuration: `lmi config --explain-lmi`. Called by `cli.py`.

One rule per difference, each with a condition on what was configured. How requests are answered is not in it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from serving.config.options import HUGGINGFACE, LmiOptions
from serving.config.resolve import ResolvedConfig
from serving.config.sources import Effective

_JAVA_ONLY = frozenset({
    "predict_timeout", "model_loading_timeout", "tensor_parallel_size", "rolling_batch", "async_mode", "entryPoint",
    "enable_lora", "model",
})  # fmt: skip
"""Options that LMI reads with their prefix only."""
_JAVA_WORDS = ("true", "false")


@dataclass(frozen=True, slots=True)
class _Rule:
    """A difference.

    Attributes:
        text: what LMI does, and what this server does.
        holds: whether it matters here.
    """

    text: str
    holds: Callable[[ResolvedConfig], bool]


def _is_set(*names: str) -> Callable[[ResolvedConfig], bool]:
    return lambda config: any(name in config.effective for name in names)


def _has(**values: object) -> Callable[[ResolvedConfig], bool]:
    return lambda config: all(getattr(config.options, name) == value for name, value in values.items())


def _is_async(config: ResolvedConfig) -> bool:
    return config.mode.name == "async"


_RULES: Sequence[_Rule] = (
    _Rule(
        "max_rolling_batch_size is not set: LMI runs 32 sequences at once in async mode, this server 256",
        lambda config: _is_async(config) and "max_num_seqs" not in config.effective,
    ),
    _Rule(
        "rolling_batch=auto: LMI since v17 takes it for async mode; here it is rolling batch, as it was before",
        lambda config: config.options.rolling_batch == "auto" and config.mode.name == "rolling_batch",
    ),
    _Rule(
        "rolling_batch=disable without async_mode=true: LMI leaves vLLM for the Transformers library; here it is async",
        lambda config: config.options.rolling_batch == "disable" and config.options.async_mode is not True,
    ),
    _Rule(
        f"entryPoint={HUGGINGFACE}: LMI does not start with it unless rolling_batch=vllm; here it is rolling batch",
        lambda config: (
            config.options.entry_point == HUGGINGFACE
            and config.options.rolling_batch is None
            and config.mode.name == "rolling_batch"
        ),
    ),
    _Rule(
        "async_mode=false: LMI since v17 ignores it in silence, so does this server, with a warning",
        lambda config: config.options.async_mode is False and _is_async(config),
    ),
    _Rule(
        "output_formatter and tgi_compat: LMI reads them in rolling batch only; here async mode has them as well",
        lambda config: _is_async(config) and (config.options.tgi_compat or config.options.output_formatter is not None),
    ),
    _Rule(
        "reasoning_parser: LMI's rolling batch leaves it unused; here both modes use it",
        lambda config: config.mode.name == "rolling_batch" and "reasoning_parser" in config.effective,
    ),
    _Rule(
        "predict_timeout: LMI does not apply it in async mode; here it bounds the time to the first output in both",
        lambda config: _is_async(config) and "predict_timeout" in config.effective,
    ),
    _Rule(
        "job_queue_size: LMI's async mode practically never refuses; here the limit counts what is accepted and not "
        "finished, and the next request gets 503",
        lambda config: _is_async(config) and "job_queue_size" in config.effective,
    ),
    _Rule(
        "copies: LMI starts one worker per group of GPUs; here copies are asked for (data_parallel_size, maxWorkers)",
        lambda config: any(warning.startswith("idle: GPU") for warning in config.warnings),
    ),
    _Rule(
        "pipeline_parallel_degree: LMI refuses any but 1",
        lambda config: config.options.pipeline_parallel_degree > 1,
    ),
    _Rule(
        "quantize on a CPU: LMI has no image for CPUs; fp8 is quantized per channel here",
        lambda config: config.vllm_arguments.get("quantization") == "fp8_per_channel",
    ),
    _Rule(
        "load_in_8bit and load_in_4bit: LMI starts unquantized, or not at all; here bitsandbytes quantizes",
        lambda config: config.options.load_in_8bit or config.options.load_in_4bit,
    ),
    _Rule(
        "older names of speculative decoding: LMI does not speculate, and does not say so",
        _is_set("speculative_draft_model", "draft_model_id", "speculative_length", "spec_length"),
    ),
    _Rule(
        "adapters: LMI answers before the engine acted, keeps broken ones, and cannot call those with preload=false",
        _has(enable_lora=True),
    ),
    _Rule(
        "ddb_cache and s3_cache_bucket: LMI's instances share asynchronous results in DynamoDB or S3; here each server "
        "keeps its own, in memory",
        _is_set("ddb_cache", "ddb_table_name", "s3_cache_bucket"),
    ),
    _Rule(
        "served_model_name is not set: OpenAI requests name the model lmi, as in LMI, or by its id, which LMI refuses",
        lambda config: "served_model_name" not in config.effective,
    ),
    _Rule(
        "an HF_MODEL_ID beside a model store: LMI loads two models, and /invocations then fails for want of a name",
        lambda config: (
            config.model_dir is not None
            and _origin(config, "model") == "HF_MODEL_ID"
            and config.options.model_id != str(config.model_dir)
        ),
    ),
    _Rule(
        "management_address: LMI's second port has no health routes; here both have them, and the first one has vLLM's "
        "routes and /metrics",
        lambda config: config.management is not None,
    ),
    _Rule(
        "custom_handler_fallback: where a handler fails, LMI's answer is 424; here the default handler answers, unless "
        "it is off",
        lambda config: (
            config.model_dir is not None
            and (config.model_dir / "model.py").is_file()
            and config.options.custom_handler_fallback != "off"
        ),
    ),
)


def differences(config: ResolvedConfig) -> list[str]:
    """What LMI does otherwise, a sentence each; the options that it drops or refuses come last."""
    found = [rule.text for rule in _RULES if rule.holds(config)]
    return [*found, *_readings(config)]


def _readings(config: ResolvedConfig) -> Iterator[str]:
    """Values that LMI reads otherwise, or not at all."""
    for name, entry in config.effective.items():
        setting = entry.setting
        if setting.origin.startswith("command line") or ".yaml " in setting.origin or ".yml " in setting.origin:
            yield f"{name} ({setting.origin}): LMI takes no flags of vLLM"
        elif not setting.known:
            yield f"{name} ({setting.origin}): LMI drops the unknown name in silence"
        elif "serving.properties" in setting.origin and name in _JAVA_ONLY and _lacks_prefix(config, setting.origin):
            yield f"{name} ({setting.origin}): LMI does not read it without the prefix option."
        elif _is_switch(name, config.options) and setting.text.lower() not in _JAVA_WORDS:
            yield f"{name}={setting.text} ({setting.origin}): parts of LMI understand true and false only"


def _is_switch(name: str, given: LmiOptions) -> bool:
    return isinstance(getattr(given, name, None), bool)


def _lacks_prefix(config: ResolvedConfig, origin: str) -> bool:
    return any(
        f"({origin}) is read as option." in warning and warning.endswith("the prefix is missing")
        for warning in config.warnings
    )


def _origin(config: ResolvedConfig, name: str) -> str:
    entry: Effective | None = config.effective.get(name)
    return entry.setting.origin if entry is not None else ""
