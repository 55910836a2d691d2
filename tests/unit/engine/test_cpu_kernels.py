# SPDX-License-Identifier: Apache-2.0
"""The functions of vLLM that are mended on CPU are there, are wrong without us, and right with us."""

from importlib.metadata import entry_points
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu
from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
from vllm.platforms import current_platform
from vllm.utils import cpu_triton_utils
from vllm.v1.sample import sampler
from vllm.v1.sample.ops import topk_topp_sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from serving.engine import cpu_kernels

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not current_platform.is_cpu(), reason="the functions are the CPU build's"),
]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered twice, as vLLM may do, and undone after the test."""
    monkeypatch.setattr(cpu_triton_utils, "_expand_kernel_impl", cpu_triton_utils._expand_kernel_impl)
    monkeypatch.setattr(topk_topp_sampler, "apply_top_k_only", topk_topp_sampler.apply_top_k_only)
    monkeypatch.setattr(GPUModelRunner, "_get_prompt_logprobs_dict", GPUModelRunner._get_prompt_logprobs_dict)
    monkeypatch.setattr(sampler, "batched_count_greater_than", sampler.batched_count_greater_than)
    monkeypatch.setattr(CPUWNA16LinearKernel, "can_implement", vars(CPUWNA16LinearKernel)["can_implement"])
    for name in cpu_kernels._LORA_KERNELS:
        monkeypatch.setattr(lora_ops, name, getattr(lora_ops, name))
        monkeypatch.setattr(punica_cpu, name, getattr(punica_cpu, name))
    cpu_kernels.register()
    cpu_kernels.register()


def test_vllm_finds_the_plug_in() -> None:
    (plugin,) = entry_points(group="vllm.general_plugins", name="lmi_cpu_kernels")
    assert plugin.load() is cpu_kernels.register


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
def test_expand(dtype: torch.dtype) -> None:
    values = torch.tensor([1.5, 0, 3, 4]).to(dtype)
    output = torch.full((5,), 77).to(dtype)
    cpu_triton_utils._expand_kernel_impl(output, values, torch.tensor([2, 3, 3, 5], dtype=torch.int32), 0, 9)
    assert output.tolist() == [values[0].item()] * 2 + [9, 4, 4]


def test_expand_nothing() -> None:
    output = torch.empty(0)
    cpu_triton_utils._expand_kernel_impl(output, torch.tensor([1.0]), torch.tensor([0], dtype=torch.int32), 0, 1)
    assert output.shape == (0,)


def test_count_at_least() -> None:
    x = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -1.0]])
    assert sampler.batched_count_greater_than(x, torch.tensor([[2.0], [0.0]])).tolist() == [2, 1]


@pytest.mark.parametrize("is_there", [True, False])
def test_four_bits(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM asks a kernel before it takes it, and says why none will do; this one's function is not in every build."""
    if is_there:
        monkeypatch.setattr(torch.ops._C, "cpu_gemm_wna16", None, raising=False)
    else:
        monkeypatch.setattr(torch.ops, "_C", SimpleNamespace())
    config = SimpleNamespace(weight_type="none that there is", group_size=128)
    can, reason = CPUWNA16LinearKernel.can_implement(config)
    assert not can
    assert (reason == cpu_kernels.NEEDS_AVX512) is not is_there


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_top_k(rows: int) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]] * rows).reshape(rows, 3)
    kept = topk_topp_sampler.apply_top_k_top_p(logits, torch.full((rows,), 2, dtype=torch.int32), None)
    assert kept.tolist() == [[float("-inf"), 3.0, 2.0]] * rows


@pytest.mark.parametrize("module", [lora_ops, punica_cpu])
@pytest.mark.parametrize("name", cpu_kernels._LORA_KERNELS)
def test_row_without_adapter(module: ModuleType, name: str) -> None:
    """The middle row has none, and slot 2 of 3 is taken by an adapter of ones."""
    weights = torch.stack([torch.full((2, 4), float("inf")), torch.full((2, 4), 2.0), torch.ones(2, 4)])
    output = torch.zeros(3, 2)
    rest = (0, 2) if name == "bgmv_expand_slice" else ()
    getattr(module, name)(torch.ones(3, 4), weights, output, torch.tensor([1, -1, 2]), *rest)
    assert output.tolist() == [[8, 8], [0, 0], [4, 4]]


@pytest.mark.parametrize("name", cpu_kernels._LORA_KERNELS)
def test_one_adapter_for_all_rows(name: str) -> None:
    rest = (0, 2) if name == "bgmv_expand_slice" else ()
    for slot, expected in ((1, 8.0), (-1, 0.0)):
        output = torch.zeros(3, 2)
        weights = torch.stack([torch.full((2, 4), float("inf")), torch.full((2, 4), 2.0)])
        getattr(punica_cpu, name)(torch.ones(3, 4), weights, output, torch.tensor([slot]), *rest)
        assert output.tolist() == [[expected] * 2] * 3


def test_prompt_logprobs_use_their_own_adapter() -> None:
    """One request has more tokens to come, one is not in this step; the batch's own adapters are back afterwards."""
    wrapper = SimpleNamespace(
        _sampler_indices=torch.tensor([0, -1]),
        _token_lora_indices=torch.tensor([0, 0, 0, -1, -1]),
        indices_len=[5, 2, 2, 5],
    )
    runner = SimpleNamespace(
        lora_config=object(),
        lora_manager=SimpleNamespace(_adapter_manager=SimpleNamespace(punica_wrapper_mapping={"": wrapper})),
        num_prompt_logprobs={"a": 1, "b": 2, "later": 1},
        query_start_loc=SimpleNamespace(np=np.array([0, 3, 5])),
        input_batch=SimpleNamespace(req_id_to_index={"a": 0, "b": 1}),
    )
    seen = []

    def upstream(runner: SimpleNamespace, states: object, num_scheduled_tokens: dict[str, int]) -> dict[str, int]:
        (req_id,) = runner.num_prompt_logprobs
        seen.append((req_id, wrapper._sampler_indices[: wrapper.indices_len[1]].tolist()))
        if req_id == "b":  # "a" has more tokens to come
            del runner.num_prompt_logprobs["b"]
        return {req_id: 7}

    assert cpu_kernels.prompt_logprobs(upstream, runner, None, {"a": 3, "b": 2}) == {"a": 7, "b": 7}
    assert seen == [("a", [0]), ("b", [-1])]
    assert runner.num_prompt_logprobs == {"a": 1, "later": 1}
    assert (wrapper._sampler_indices.tolist(), wrapper.indices_len[1]) == ([0, -1], 2)


def test_rows_of_a_prefill() -> None:
    """Where vLLM counts by sequence, it calls the same functions."""
    output = torch.zeros(3, 2)
    args = torch.tensor([0, 2]), torch.tensor([2, 1]), torch.tensor([-1, 0]), 2, 2, 3
    lora_ops.sgmv_shrink(torch.ones(3, 4), torch.ones(1, 2, 4), output, *args, 1.0)
    assert output.tolist() == [[0, 0], [0, 0], [4, 4]]
