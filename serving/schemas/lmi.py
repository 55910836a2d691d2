# SPDX-License-Identifier: Apache-2.0
"""LMI's own schema, `inputs` and `parameters`, in async mode (tests/conformance/data/schemas.yaml).

Renames LMI's parameters to the fields of vLLM's completion request; the engine validates their values.
"""

from typing import Any

from serving.errors import PayloadError
from serving.schemas import output, parameters
from serving.schemas.generation import GenerationRequest, LmiRequest
from serving.schemas.output import Defaults
from serving.schemas.parameters import DEFAULT_MAX_NEW_TOKENS, count, encodable, flag, guide, strings

_OURS = frozenset({"request_id", "stream_options", "return_tokens_as_token_ids", "suffix", "adapters"})
"""Fields of vLLM's request that belong to the server or to its answer, not to generation."""


def parse(payload: dict[str, Any], defaults: Defaults) -> LmiRequest:
    """A payload with `inputs` as a typed request; `adapters`, if it is there, has a name or nothing for each prompt.

    Raises:
        PayloadError: naming the field, what is wrong with it and what would do.
    """
    fields = parameters.of(payload)
    fields = {name: value for name, value in fields.items() if (value is not None or name == "n") and name not in _OURS}
    asks = parameters.asks_for_stream(payload, fields)
    output_format, stream = output.choose(fields.pop("output_formatter", None), asks, defaults)
    details = flag(fields, "details", default=defaults.tgi_compat)
    full_text = any([flag(fields, "return_full_text"), flag(fields, "echo")])
    prefill = flag(fields, "decoder_input_details")
    top_n_tokens = count(fields, "top_n_tokens")
    prompt_only = (
        full_text and not stream and parameters.is_zero(fields.get("max_new_tokens")) and "max_tokens" not in fields
    )
    if defaults.greedy and "do_sample" not in fields:
        fields.setdefault("temperature", 0.0)
    _rename(fields, prompt_only)
    num_sequences = parameters.sequences(fields, stream, is_greedy=fields.get("temperature") == 0)
    if details or stream:
        fields["logprobs"] = _logprobs(fields.get("logprobs"), top_n_tokens)
    if stream and num_sequences > 1 and output_format != "lmi":
        raise PayloadError(
            "Input parsing failed: several sequences are only supported without streaming in this format"
        )
    shows_prompt = prefill or (full_text and not stream and not fields.get("use_beam_search"))
    if details and shows_prompt:
        fields.setdefault("prompt_logprobs", 1)
    if "prompt_logprobs" in fields:
        parameters.refuse_prompt_logprobs(fields, stream)
    prompts, is_batch = _prompts(fields.pop("prompt", payload.get("inputs")), stream)
    model = fields.pop("model", None) or payload.get("model")
    return LmiRequest(
        generations=[
            GenerationRequest(prompt, fields, stream, top_n_tokens, model)
            for prompt, model in zip(prompts, _models(payload.get("adapters"), model, len(prompts)), strict=True)
        ],
        is_batch=is_batch,
        return_full_text=full_text,
        details=details,
        top_n_tokens=top_n_tokens,
        seed=_seed(fields),
        output_format=output_format,
        num_sequences=num_sequences,
        tgi_keys=defaults.tgi_compat,
        prompt_only=prompt_only,
    )


def _rename(fields: dict[str, Any], prompt_only: bool) -> None:
    """LMI's parameter names to vLLM's, in place; a vLLM name that was given as well wins."""
    max_new_tokens = fields.pop("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
    if prompt_only:
        max_new_tokens = 1
    if isinstance(max_new_tokens, int) and max_new_tokens < 1 and "max_tokens" not in fields:
        raise PayloadError(f"Input parsing failed: max_new_tokens must be at least 1, got {max_new_tokens}")
    fields.setdefault("max_tokens", max_new_tokens)
    if "do_sample" in fields and not flag(fields, "do_sample"):
        fields["temperature"] = 0.0
    if stops := fields.pop("stop_sequences", None):
        fields["stop"] = [*strings(fields.get("stop", []), "stop"), *strings(stops, "stop_sequences")]
    if "ignore_eos_token" in fields:
        fields.setdefault("ignore_eos", fields.pop("ignore_eos_token"))
    if "truncate" in fields:
        fields.setdefault("truncate_prompt_tokens", fields.pop("truncate"))
        fields.setdefault("truncation_side", "left")
    guide(fields)


def _logprobs(given: Any, top_n_tokens: int) -> Any:
    """How many log-probabilities per token: at least one, for the tokens that are shown; all where -1 was given."""
    if given is None:
        return max(1, top_n_tokens)
    return max(given, top_n_tokens) if isinstance(given, int) and given != -1 else given


def _prompts(inputs: Any, stream: bool) -> tuple[list[str | list[int]], bool]:
    """The prompts, and whether the answer is a list. A list of one string is answered as the string alone."""
    if isinstance(inputs, str) and inputs:
        return [encodable(inputs)], False
    if inputs == "" or inputs == []:
        raise PayloadError("Input parsing failed: inputs must not be empty")
    if not isinstance(inputs, list):
        kind = "null" if inputs is None else type(inputs).__name__
        raise PayloadError(f"Input parsing failed: inputs must be a string or a list of strings, got {kind}")
    if all(parameters.is_whole(item) for item in inputs):
        return [inputs], False
    if not all(isinstance(item, str) for item in inputs):
        raise PayloadError("Input parsing failed: inputs must be a string, a list of strings or a list of token ids")
    if stream and len(inputs) > 1:
        raise PayloadError("Input parsing failed: a list of inputs is only supported without streaming")
    return [encodable(item) for item in inputs], len(inputs) > 1


def _models(adapters: Any, model: Any, count: int) -> list[Any]:
    """Each prompt's adapter, None for the base model; without such a list the model that was named for all."""
    if not isinstance(adapters, list):
        return [model] * count
    if len(adapters) != count:
        raise PayloadError(f"Input parsing failed: {len(adapters)} adapters for {count} prompts")
    return [adapter or None for adapter in adapters]


def _seed(fields: dict[str, Any]) -> int | None:
    """The seed as the details show it; its value is checked by the engine."""
    seed = fields.get("seed")
    if isinstance(seed, str) and seed.isascii() and seed.isdigit() and len(seed) < 20:
        return int(seed)
    return seed if isinstance(seed, int) else None
