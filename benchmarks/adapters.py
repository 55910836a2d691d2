# SPDX-License-Identifier: Apache-2.0
"""What registering an adapter costs beside the engine's own `add_lora`, for the demo adapter and one of 200 MB.

`make bench-adapters`. Writes `results/adapters.json` and prints the table for `results/adapters.md`. Both ways run in
turn in one process with one engine; files are in the page cache.
"""

import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from handlers.adapter_backends import EngineBackend
from handlers.adapter_sources import AdapterSources
from handlers.adapters import AdapterRegistry, Change
from handlers.user_formatters import UserFormatters
from serving import demo
from serving.config.host import Host
from serving.config.resolve import resolve
from serving.ledger import Ledger

RESULTS = Path(__file__).parent / "results"
NUM_ROUNDS = 12
NUM_LAYERS, HIDDEN, INTERMEDIATE, KV, RANK = 22, 2048, 5632, 512, 64
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KV),
    "self_attn.v_proj": (HIDDEN, KV),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INTERMEDIATE),
    "mlp.up_proj": (HIDDEN, INTERMEDIATE),
    "mlp.down_proj": (INTERMEDIATE, HIDDEN),
}
"""(inputs, outputs) of each."""


def large_model(directory: Path) -> Path:
    """A model of 1.1 billion parameters whose weights are never read: a header, and nothing behind it."""
    for file in demo.MODEL_DIR.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": NUM_LAYERS}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128}
    (directory / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for layer in range(NUM_LAYERS):
        for module, (inputs, outputs) in MODULES.items():
            begin, end = end, end + 2 * inputs * outputs
            entry = {"dtype": "BF16", "shape": [outputs, inputs], "data_offsets": [begin, end]}
            header[f"model.layers.{layer}.{module}.weight"] = entry
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return directory


def large_adapter(directory: Path) -> Path:
    """An adapter for all of that model's layers."""
    tensors = {}
    for layer in range(NUM_LAYERS):
        for module, (inputs, outputs) in MODULES.items():
            stem = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{stem}.lora_A.weight"] = np.ones((RANK, inputs), np.float32)
            tensors[f"{stem}.lora_B.weight"] = np.ones((outputs, RANK), np.float32)
    save_file(tensors, directory / "adapter_model.safetensors")
    names = sorted({module.rpartition(".")[2] for module in MODULES})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": names}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


async def measure(argv: list[str], adapter: Path) -> dict[str, float]:
    """Medians of both ways, in milliseconds."""
    from vllm.lora.request import LoRARequest

    from serving.engine.engine_args import namespace
    from serving.engine.vllm_engine import VllmEngine

    config = resolve({"OPTION_ENABLE_LORA": "true"}, argv, Host.local(os.environ), demo.MODEL_DIR)
    os.environ.update(config.environment)
    args, fallback = namespace(config.vllm_arguments), config.options.tool_fallback
    engine = VllmEngine(args, config.model_name, config.limits, Ledger(), fallback)
    await engine.start()
    try:
        sources = AdapterSources([str(adapter.parent)], adapter.parent)
        registry = AdapterRegistry(EngineBackend(engine, UserFormatters(), None), sources)
        alone, registered = [], []
        for number in range(NUM_ROUNDS):
            request = LoRARequest("alone", 1000 + number, str(adapter))
            alone.append(await timed(lambda: engine._client.add_lora(request)))  # noqa: B023 - awaited here
            await engine._client.remove_lora(request.lora_int_id)
            registered.append(await timed(lambda: registry.register(Change("a", str(adapter)))))
            await registry.unregister(Change("a"))
    finally:
        await engine.close()
    # The first of each reads the base model's header, or warms the page cache.
    return {"add_lora_ms": statistics.median(alone[1:]), "register_ms": statistics.median(registered[1:])}


def main() -> None:
    """Measures one adapter, when named, or both in processes of their own; prints the table, writes the record."""
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            if sys.argv[1] == "demo":
                argv, adapter = ["--demo"], demo.ADAPTERS_DIR / demo.adapter_names()[0]
            else:
                model, adapter = Path(folder, "model"), Path(folder, "adapter")
                model.mkdir()
                adapter.mkdir()
                argv = ["--model", str(large_model(model)), "--load-format", "dummy", "--max-lora-rank", str(RANK)]
                argv += ["--max-model-len", "512", "--max-loras", "2", "--enforce-eager"]
                large_adapter(adapter)
            megabytes = (adapter / "adapter_model.safetensors").stat().st_size / 1e6
            print(json.dumps({"megabytes": megabytes} | asyncio.run(measure(argv, adapter))))
        return
    record = {}
    for kind in ("demo", "large"):
        command = [sys.executable, "-m", "benchmarks.adapters", kind]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        record[kind] = json.loads(output.splitlines()[-1])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    record |= {"commit": commit, "machine": f"{os.cpu_count()} cores, {platform.machine()}"}
    (RESULTS / "adapters.json").write_text(json.dumps(record, indent=2) + "\n")
    print("| adapter | add_lora (ms) | registered (ms) | difference |\n|---|---:|---:|---:|")
    for kind in ("demo", "large"):
        one = record[kind]
        more = one["register_ms"] - one["add_lora_ms"]
        print(
            f"| {one['megabytes']:.1f} MB | {one['add_lora_ms']:.1f} | {one['register_ms']:.1f} "
            f"| {more:.1f} ms, {more / one['add_lora_ms']:.0%} |"
        )


if __name__ == "__main__":
    main()
