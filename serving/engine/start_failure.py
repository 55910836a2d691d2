# SPDX-License-Identifier: Apache-2.0
"""Why an engine did not start, in one line, and what most often helps. Used by whatever starts one."""

import re
from importlib.util import find_spec

from pydantic import ValidationError

from serving.engine.child_output import ChildOutput
from serving.errors import ConfigError, EngineDead, Problem

_REMEDIES = (
    (r"No space left", "make room where models are kept (HF_HOME), or name another place with option.download_dir"),
    (r"out of memory|KV cache|memory utilization|[Aa]vailable memory", "lower option.max_model_len, "
     "option.max_rolling_batch_size or option.gpu_memory_utilization"),
    (r"AVX-512", "take another quantization of the model, or a machine with AVX-512"),
    (r"NUMA nodes", "set option.tensor_parallel_degree=1: one CPU is one device to vLLM"),
    (r"quantization method|quantized", "leave option.quantize out for a quantized model, or choose another method"),
    (r"trust_remote_code", "set option.trust_remote_code=true if you trust the model's code"),
    (r"gated repo|awaiting a review", "accept the model's terms on the Hub and set HF_TOKEN"),
    (r"Repo id|[Hh]ugging ?[Ff]ace|offline", "check the model id, HF_TOKEN and the network, or give a local directory"),
    (r"\bdtype\b", "choose another option.dtype"),
    (r"not supported", "see vLLM's list of supported models and quantization methods"),
)  # fmt: skip
"""A pattern in an engine's start failure, and what most often helps."""
_NEEDS_TORCHVISION = (
    "models that see images need torchvision of the same build as torch: "
    "pip install torchvision==0.28.0+cpu --index-url https://download.pytorch.org/whl/cpu"
)


_IMPORTED_AGAIN = "bootstrapping phase"
"""Of Python's sentence about programs that start processes while they are imported."""


def start_failure(error: Exception, output: ChildOutput) -> ConfigError:
    """What to tell the user of `error`; `output` is what the engine's processes printed meanwhile."""
    text = one_line(_root_cause(error, output))
    if _IMPORTED_AGAIN in text:
        text = "its process imports this program again, which would load the model again"
        remedy = 'put what the program does below `if __name__ == "__main__":`'
        return ConfigError([Problem("ENGINE", f"the engine does not start: {text}", remedy=remedy)])
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, text)), "")
    if "failed to be inspected" in text and find_spec("torchvision") is None:
        remedy = _NEEDS_TORCHVISION
    return ConfigError([Problem("ENGINE", f"the engine does not start: {text}", remedy=remedy)])


def one_line(error: object) -> str:
    """The error's text without line ends; its class where it has none."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _root_cause(error: Exception, output: ChildOutput) -> object:
    """What an engine process printed last, where our exception says no more than that it failed."""
    if isinstance(error, ValidationError):
        return "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
    if not isinstance(error, EngineDead) and "root cause" not in str(error):
        return error
    output.join()
    return output.root_cause() or error
