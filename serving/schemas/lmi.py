# SPDX-License-Identifier: Apache-2.0
"""LMI's own schema, `inputs` and `parameters`, in async mode (tests/conformance/data/schemas.yaml).

Renames LMI's parameters to the fields of vLLM's completion request; the engine validates their values.
"""

from typing import Any

from serving.errors import PayloadError
from serving.schemas import parameters
from serving.schemas.generation import GenerationRequest, LmiRequest
from serving.schemas.parameters import DEFAULT_MAX_NEW_TOKENS, count, encodable, flag, guide, refuse_beams, strings

_OURS = frozenset({"request_id", "stream_options", "return_tokens_as_token_ids", "suffix", "adapters"})
"""Fields of vLLM's request that belong to the server or to its answer, not to generation."""


def parse(payload: dict[str, Any]) -> LmiRequest:
    """A payload with `inputs` as a typed request.

    Raises:
        PayloadError: naming the field, what is wrong with it and what would do.
    """
    fields = parameters.of(payload)
    fields = {name: value for name, value in fields.items() if (value is not None or name == "n") and name not in _OURS}
    stream = flag(fields, "stream") or flag({"stream": payload.get("stream")}, "stream")
    details = flag(fields, "details")
    full_text = any([flag(fields, "return_full_text"), flag(fields, "echo")])
    prefill = flag(fields, "decoder_input_details")
    top_n_tokens = count(fields, "top_n_tokens")
    refuse_beams(fields)
    _rename(fields)
    if details or stream:
        fields.setdefault("logprobs", 1)
        if isinstance(fields["logprobs"], int) and fields["logprobs"] != -1:
            fields["logprobs"] = max(fields["logprobs"], top_n_tokens)
    if details and (prefill or (full_text and not stream)):
        fields.setdefault("prompt_logprobs", 1)
    prompts, is_batch = _prompts(fields.pop("prompt", payload.get("inputs")), stream)
    model = fields.pop("model", None) or payload.get("model")
    return LmiRequest(
        generations=[GenerationRequest(prompt, fields, stream, top_n_tokens, model) for prompt in prompts],
        is_batch=is_batch,
        return_full_text=full_text,
        details=details,
        top_n_tokens=top_n_tokens,
        seed=_seed(fields),
    )


def _rename(fields: dict[str, Any]) -> None:
    """LMI's parameter names to vLLM's, in place; a vLLM name that was given as well wins."""
    max_new_tokens = fields.pop("max_new_tokens", DEFAULT_MAX_NEW_TOKENS)
    if isinstance(max_new_tokens, int) and max_new_tokens < 1:
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


def _prompts(inputs: Any, stream: bool) -> tuple[list[str | list[int]], bool]:
    """The prompts, and whether the answer is a list. A list of one string is answered as the string alone."""
    if isinstance(inputs, str) and inputs:
        return [encodable(inputs)], False
    if inputs == "" or inputs == []:
        raise PayloadError("Input parsing failed: inputs must not be empty")
    if not isinstance(inputs, list):
        kind = "null" if inputs is None else type(inputs).__name__
        raise PayloadError(f"Input parsing failed: inputs must be a string or a list of strings, got {kind}")
    if all(isinstance(item, int) and not isinstance(item, bool) for item in inputs):
        return [inputs], False
    if not all(isinstance(item, str) for item in inputs):
        raise PayloadError("Input parsing failed: inputs must be a string, a list of strings or a list of token ids")
    if stream and len(inputs) > 1:
        raise PayloadError("Input parsing failed: a list of inputs is only supported without streaming")
    return [encodable(item) for item in inputs], len(inputs) > 1


def _seed(fields: dict[str, Any]) -> int | None:
    """The seed as the details show it; its value is checked by the engine."""
    seed = fields.get("seed")
    return seed if isinstance(seed, int) else int(seed) if isinstance(seed, str) and seed.isdigit() else None
