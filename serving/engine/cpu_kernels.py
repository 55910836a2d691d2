# SPDX-License-Identifier: Apache-2.0
"""Mends functions of vLLM 0.32's CPU build (docs/decisions/0006, 0010, 0017).

Speculative decoding: a sampled request with guessed tokens reads memory that nobody wrote, and the engine dies of it.
LoRA: a row of the base model gets the weights of an adapter, and the engine dies of a prompt's log-probabilities beside
another request. Weights of 4 bits: a processor without AVX-512 is told too late. Ranks of tokens: a function is
compiled that needs no compiler. vLLM calls `register` in each of its processes, as a plug-in of the group
`vllm.general_plugins` (`pyproject.toml`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_LORA_KERNELS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
_MARK = "_lmi_mended"
NEEDS_AVX512 = "weights of 4 bits need a CPU with AVX-512"


def register() -> None:
    """Puts the functions in place; on any other platform, and the second time, does nothing."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu
    from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
    from vllm.utils import cpu_triton_utils
    from vllm.v1.sample import sampler
    from vllm.v1.sample.ops import topk_topp_sampler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    cpu_triton_utils._expand_kernel_impl = expand
    sampler.batched_count_greater_than = count_at_least
    _mend(CPUWNA16LinearKernel, "can_implement", four_bits)
    _mend(topk_topp_sampler, "apply_top_k_only", top_k_only)
    _mend(GPUModelRunner, "_get_prompt_logprobs_dict", prompt_logprobs)
    for name in _LORA_KERNELS:
        _mend(lora_ops, name, with_adapter_only)
        _mend(punica_cpu, name, with_adapter_only)


def _mend(owner: Any, name: str, mended: Callable[..., Any]) -> None:
    """Has `mended` called in place of a module's or class's function, with that function before its arguments."""
    upstream = getattr(owner, name)
    if hasattr(upstream, _MARK):
        return

    def function(*args: Any, **kwargs: Any) -> Any:
        return mended(upstream, *args, **kwargs)

    setattr(function, _MARK, True)
    setattr(owner, name, function)


def expand(
    output: Any, values: Any, ends: Any, replace_from: int, replace_to: int, MAX_NUM_TOKENS: int | None = None
) -> None:
    """Writes each request's value once per token of it, with `replace_to` where the value is `replace_from`.

    vLLM's own function copies a tensor that is not int64, and writes into the copy.

    Args:
        output: (tokens,), of the dtype of `values`; written.
        values: (requests,), such as temperatures.
        ends: (requests,), the index behind each request's last token.
        replace_from: the value to replace.
        replace_to: what to write instead.
        MAX_NUM_TOKENS: for the kernel that this stands for; not needed here.
    """
    counts = ends.diff(prepend=ends.new_zeros(1))
    output.copy_(values.where(values != replace_from, replace_to).repeat_interleave(counts))


def count_at_least(x: Any, values: Any) -> Any:
    """How many numbers of each row are at least the row's value: the rank of a token.

    vLLM's own function is compiled by the first request that wants log-probabilities, which takes it seconds.

    Args:
        x: (rows, numbers).
        values: (rows, 1).

    Returns:
        (rows,), int64.
    """
    return (x >= values).sum(-1)


def four_bits(upstream: Any, config: Any) -> tuple[bool, str | None]:
    """`upstream`, which says whether a quantized layer can be computed; it takes AVX-512 for granted."""
    import torch

    if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
        return False, NEEDS_AVX512
    answer: tuple[bool, str | None] = upstream(config)
    return answer


def top_k_only(upstream: Any, logits: Any, k: Any) -> Any:
    """`upstream`, which takes a maximum, unless there is no row to take it of: no token was guessed in this step."""
    return upstream(logits, k) if logits.shape[0] else logits


def with_adapter_only(
    upstream: Callable[..., Any], inputs: Any, weights: Any, output: Any, indices: Any, *args: Any, **kwargs: Any
) -> Any:
    """`upstream`, one of `_LORA_KERNELS`, to which the index -1 of a row without an adapter means the last slot.

    Args:
        upstream: multiplies each row with the weights of its slot.
        inputs: (rows, features).
        weights: (slots, outputs, features), or with a dimension of 1 behind the first.
        output: (rows, outputs) or more; written, or added to; rows without an adapter stay as they are.
        indices: (rows,), each row's slot; or (1,), the slot of all.
        *args: whatever else it takes.
        **kwargs: the same, by name.
    """
    indices = indices.expand(len(inputs))
    bare = indices < 0
    kept = output[: len(indices)][bare]
    upstream(inputs, weights, output, indices.clamp(min=0), *args, **kwargs)
    # Zeros as inputs would not do: the weights of slot 0 may be infinite.
    output[: len(indices)][bare] = kept


def prompt_logprobs(
    upstream: Callable[..., dict[str, Any]], runner: Any, hidden_states: Any, num_scheduled_tokens: dict[str, int]
) -> dict[str, Any]:
    """`upstream` for one request at a time, its adapter in place of those of the whole batch.

    The rows it computes are tokens of one prompt; the adapters of the batch, one for each request, are not theirs.

    Args:
        upstream: the method of vLLM's model runner; takes finished requests out of `runner.num_prompt_logprobs`.
        runner: vLLM's model runner.
        hidden_states: (tokens, features), of the whole batch.
        num_scheduled_tokens: of each request of the batch.
    """
    if runner.lora_config is None:
        return upstream(runner, hidden_states, num_scheduled_tokens)
    wrappers = list(runner.lora_manager._adapter_manager.punica_wrapper_mapping.values())
    wanted = runner.num_prompt_logprobs
    found: dict[str, Any] = {}
    try:
        for req_id in [req_id for req_id in wanted if req_id in num_scheduled_tokens]:
            runner.num_prompt_logprobs = {req_id: wanted[req_id]}
            first_token = runner.query_start_loc.np[runner.input_batch.req_id_to_index[req_id]].item()
            with _adapter_of_token(wrappers, first_token):
                found |= upstream(runner, hidden_states, num_scheduled_tokens)
            if not runner.num_prompt_logprobs:
                del wanted[req_id]
    finally:
        runner.num_prompt_logprobs = wanted
    return found


@contextmanager
def _adapter_of_token(wrappers: Sequence[Any], token: int) -> Iterator[None]:
    """Until the block ends, logits are computed with the adapter of this token of the batch."""
    before = [(wrapper._sampler_indices[:1].clone(), wrapper.indices_len[1]) for wrapper in wrappers]
    try:
        for wrapper in wrappers:
            wrapper._sampler_indices[:1] = wrapper._token_lora_indices[token]
            wrapper.indices_len[1] = 1
        yield
    finally:
        for wrapper, (index, length) in zip(wrappers, before, strict=True):
            wrapper._sampler_indices[:1] = index
            wrapper.indices_len[1] = length
