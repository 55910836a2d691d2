# SPDX-License-Identifier: Apache-2.0
"""Mends two functions of vLLM 0.32's CPU build that speculative decoding needs (docs/decisions/0006).

Without them a sampled request with guessed tokens reads memory that nobody wrote, and the engine dies of it. vLLM calls
`register` in each of its processes, as a plug-in of the group `vllm.general_plugins` (`pyproject.toml`).
"""

from typing import Any


def register() -> None:
    """Puts both functions in place; on any other platform, and the second time, does nothing."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.utils import cpu_triton_utils
    from vllm.v1.sample.ops import topk_topp_sampler

    cpu_triton_utils._expand_kernel_impl = expand
    upstream = topk_topp_sampler.apply_top_k_only
    if upstream.__name__ != top_k_only.__name__:

        def top_k_only_of_some(logits: Any, k: Any) -> Any:
            return top_k_only(upstream, logits, k)

        top_k_only_of_some.__name__ = top_k_only.__name__
        topk_topp_sampler.apply_top_k_only = top_k_only_of_some


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


def top_k_only(upstream: Any, logits: Any, k: Any) -> Any:
    """`upstream`, which takes a maximum, unless there is no row to take it of: no token was guessed in this step."""
    return upstream(logits, k) if logits.shape[0] else logits
