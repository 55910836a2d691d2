# SPDX-License-Identifier: Apache-2.0
"""Which of LMI's modes answers, by every combination of the three options that choose."""

import pytest

from serving.config.mode import choose
from serving.config.options import ASYNC_SERVICE, HUGGINGFACE, LmiOptions
from serving.errors import ConfigError

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("given", "mode", "reason", "warnings"),
    [
        ({}, "async", "nothing asks for another", 0),
        ({"async_mode": "true"}, "async", "async_mode=true", 0),
        ({"async_mode": "false"}, "async", "nothing asks for another", 0),
        ({"entryPoint": ASYNC_SERVICE}, "async", f"entryPoint={ASYNC_SERVICE}", 0),
        ({"rolling_batch": "disable"}, "async", "nothing asks for another", 1),
        ({"rolling_batch": "disable", "async_mode": "true"}, "async", "async_mode=true", 0),
        ({"rolling_batch": "disable", "entryPoint": ASYNC_SERVICE}, "async", f"entryPoint={ASYNC_SERVICE}", 0),
        ({"rolling_batch": "disable", "entryPoint": HUGGINGFACE}, "async", f"entryPoint={HUGGINGFACE}", 2),
        ({"rolling_batch": "auto"}, "rolling_batch", "rolling_batch=auto", 0),
        ({"rolling_batch": "auto", "async_mode": "true"}, "async", "async_mode=true", 0),
        ({"rolling_batch": "auto", "entryPoint": ASYNC_SERVICE}, "async", f"entryPoint={ASYNC_SERVICE}", 0),
        ({"rolling_batch": "vllm"}, "rolling_batch", "rolling_batch=vllm", 0),
        ({"rolling_batch": " VLLM "}, "rolling_batch", "rolling_batch=vllm", 0),
        ({"rolling_batch": "vllm", "async_mode": "false"}, "rolling_batch", "rolling_batch=vllm", 0),
        ({"rolling_batch": "lmi-dist"}, "rolling_batch", "rolling_batch=lmi-dist", 1),
        ({"entryPoint": HUGGINGFACE}, "rolling_batch", f"entryPoint={HUGGINGFACE}", 0),
        ({"entryPoint": HUGGINGFACE, "async_mode": "true"}, "async", "async_mode=true", 1),
        ({"task": "text-embedding"}, "embedding", "task=text-embedding", 0),
        ({"task": "feature-extraction", "async_mode": "true"}, "embedding", "task=feature-extraction", 0),
        ({"task": "text-embedding", "rolling_batch": "vllm"}, "embedding", "task=text-embedding", 1),
        ({"task": "classify"}, "async", "nothing asks for another", 0),
    ],
)
def test_mode(given: dict[str, str], mode: str, reason: str, warnings: int) -> None:
    heard: list[str] = []
    chosen = choose(LmiOptions.model_validate(given), heard)
    assert (chosen.name, chosen.reason, len(heard)) == (mode, reason, warnings), heard


@pytest.mark.parametrize("batch", ["vllm", "lmi-dist"])
@pytest.mark.parametrize("other", [{"async_mode": "true"}, {"entryPoint": ASYNC_SERVICE}])
def test_both_modes_at_once(batch: str, other: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"rolling_batch={batch} and .* ask for different modes; drop ") as raised:
        choose(LmiOptions.model_validate({"rolling_batch": batch, **other}), [])
    assert raised.value.problems[0].kind == "CONFLICT"
