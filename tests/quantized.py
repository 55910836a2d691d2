# SPDX-License-Identifier: Apache-2.0
"""Makes an AWQ checkpoint of a Llama model: 4 bits, groups of 128, rounded to nearest. `python -m tests.quantized OUT`.

Nothing is calibrated, which a model as sure of its answers as the demo model does not need. The layout is AutoAWQ's
"gemm": `qweight` and `qzeros` hold eight numbers per int32 in the order of `_ORDER`.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from serving import demo

HAS_KERNEL = "avx512f" in Path("/proc/cpuinfo").read_text().split()
"""vLLM's CPU build computes weights of 4 bits with AVX-512 alone."""
REFUSAL = "weights of 4 bits need a CPU with AVX-512; take another quantization of the model"
_BITS, _GROUP, _PER_INT = 4, 128, 8
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def make_awq(source: Path, target: Path) -> None:
    """Writes the model directory `target` from the one in `source`; the adapters stay behind."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.name not in ("model.safetensors", "serving.properties"):
            shutil.copy(path, target)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq", "bits": _BITS, "group_size": _GROUP, "version": "gemm", "zero_point": True,
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config, indent=2))
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors |= _quantized(name.removesuffix("weight"), weight.float())
        else:
            tensors[name] = weight
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _quantized(prefix: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The three tensors that stand for a weight of shape (outputs, inputs)."""
    groups = weight.t().reshape(-1, _GROUP, weight.shape[0])
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**_BITS - 1)).clamp(min=1e-8).to(torch.bfloat16).float()
    zero = (-low / scale).round().clamp(0, 2**_BITS - 1)
    numbers = ((groups / scale).round() + zero).clamp(0, 2**_BITS - 1)
    return {
        f"{prefix}qweight": _packed(numbers.reshape(-1, weight.shape[0])),
        f"{prefix}qzeros": _packed(zero.squeeze(1)),
        f"{prefix}scales": scale.squeeze(1).to(torch.bfloat16),
    }


def _packed(numbers: torch.Tensor) -> torch.Tensor:
    """Eight columns of 4-bit numbers in each int32."""
    columns = numbers.to(torch.int64).reshape(numbers.shape[0], -1, _PER_INT)
    packed = torch.zeros(columns.shape[:2], dtype=torch.int64)
    for place, column in enumerate(_ORDER):
        packed |= columns[:, :, column] << (_BITS * place)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


if __name__ == "__main__":
    make_awq(demo.MODEL_DIR, Path(sys.argv[1]))
