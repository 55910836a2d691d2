# SPDX-License-Identifier: Apache-2.0
"""LMI's options that have no vLLM argument of the same meaning: quantization and tasks."""

from pathlib import Path

import pytest

from serving.config.host import Host
from serving.config.options import LmiOptions
from serving.config.translate import checkpoint_quantization, engine_arguments
from serving.errors import ConfigError

pytestmark = pytest.mark.pure
GPU, CPU = Host(device_count=1), Host()


def translated(
    given: dict[str, str], passed: dict[str, str] | None = None, host: Host = GPU, model: str = "org/m"
) -> tuple[dict[str, object], list[str]]:
    """vLLM's arguments for these options, and the warnings."""
    warnings: list[str] = []
    return engine_arguments(LmiOptions.model_validate(given), model, passed or {}, host, warnings), warnings


@pytest.mark.parametrize(
    ("given", "host", "method", "warnings"),
    [
        ({}, GPU, None, []),
        ({"quantize": "fp8"}, GPU, "fp8", []),
        ({"quantize": "fp8"}, CPU, "fp8_per_channel", ["quantize=fp8 is fp8_per_channel on CPU"]),
        ({"quantize": "bitsandbytes"}, CPU, "bitsandbytes", []),
        ({"quantize": "bitsandbytes4"}, GPU, "bitsandbytes",
         ["quantize=bitsandbytes4 is read as quantize=bitsandbytes"]),
        ({"quantize": "bitsandbytes8"}, GPU, "bitsandbytes",
         ["quantize=bitsandbytes8 is read as quantize=bitsandbytes; vLLM does not load in 8 bits, it quantizes to 4"]),
        ({"load_in_4bit": "true"}, GPU, "bitsandbytes",
         ["load_in_4bit=true is an older spelling of quantize=bitsandbytes4",
          "quantize=bitsandbytes4 is read as quantize=bitsandbytes"]),
        ({"load_in_8bit": "true", "quantize": "bitsandbytes"}, GPU, "bitsandbytes",
         ["load_in_8bit=true is an older spelling of quantize=bitsandbytes8",
          "quantize=bitsandbytes8 is read as quantize=bitsandbytes; vLLM does not load in 8 bits, it quantizes to 4"]),
        ({"load_in_8bit": "false", "quantize": "awq"}, GPU, "awq", []),
    ],
)  # fmt: skip
def test_quantization(given: dict[str, str], host: Host, method: str | None, warnings: list[str]) -> None:
    arguments, heard = translated(given, host=host)
    assert (arguments["quantization"], heard) == (method, warnings)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"load_in_8bit": "true", "quantize": "awq"}, "load_in_8bit=true and quantize=awq ask for different methods"),
        ({"load_in_8bit": "true", "load_in_4bit": "true"},
         "load_in_4bit=true and quantize=bitsandbytes8 ask for different methods"),
    ],
)  # fmt: skip
def test_two_methods(given: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        translated(given)
    assert [(one.kind, str(one)) for one in raised.value.problems] == [("CONFLICT", f"{text}; keep one of the two")]


@pytest.mark.parametrize(
    ("file", "text", "method"),
    [
        ("config.json", '{"quantization_config": {"quant_method": "awq"}}', "awq"),
        ("config.json", '{"compression_config": {"quant_method": "compressed-tensors"}}', "compressed-tensors"),
        ("hf_quant_config.json", '{"quantization": {"quant_algo": "FP8"}}', "FP8"),
        ("config.json", '{"quantization_config": null}', None),
        ("config.json", "{}", None),
        ("config.json", "[]", None),
        ("config.json", "not JSON", None),
        ("other.json", "{}", None),
    ],
)
def test_quantized_checkpoint(tmp_path: Path, file: str, text: str, method: str | None) -> None:
    (tmp_path / file).write_text(text)
    assert checkpoint_quantization(tmp_path) == method


def test_quantize_on_a_quantized_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    arguments, warnings = translated({"quantize": "awq"}, model=str(tmp_path))
    assert arguments["quantization"] == "awq"
    assert warnings == [
        "the model is already quantized (awq): leave quantize=awq out, so that vLLM reads the method from the model "
        "and is free to choose its fastest kernels"
    ]
    assert translated({}, model=str(tmp_path))[1] == []


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("auto", {}),
        ("generate", {"runner": "generate"}),
        ("text-generation", {"runner": "generate"}),
        ("text-embedding", {"convert": "embed"}),
        ("feature-extraction", {"runner": "pooling", "convert": "embed"}),
        ("classify", {"convert": "classify"}),
    ],
)
def test_task(task: str, expected: dict[str, str]) -> None:
    arguments, warnings = translated({"task": task})
    assert {name: arguments[name] for name in ("runner", "convert") if name in arguments} == expected
    assert warnings == []


def test_unknown_task() -> None:
    arguments, (warning,) = translated({"task": "score"})
    assert "runner" not in arguments
    assert warning.startswith("task=score is not one of auto, text-generation, ")


def test_runner_wins_over_the_task() -> None:
    arguments, warnings = translated({"task": "text-generation"}, {"runner": "pooling"})
    assert "runner" not in arguments
    assert warnings == ["runner=pooling wins over task=text-generation, which means runner=generate"]
