# SPDX-License-Identifier: Apache-2.0
"""When the engine's process may be a fork of the server's."""

from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from serving.run import _may_fork

pytestmark = pytest.mark.vllm
SPAWN = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}


def setup(environment: dict[str, str] = SPAWN, has_formatters: bool | None = None) -> Any:
    code = None if has_formatters is None else SimpleNamespace(has_formatters=has_formatters)
    return SimpleNamespace(code=code, config=SimpleNamespace(environment=environment))


def arguments(otlp_traces_endpoint: str | None = None, numa_bind: bool = False) -> Namespace:
    return Namespace(otlp_traces_endpoint=otlp_traces_endpoint, numa_bind=numa_bind)


@pytest.mark.parametrize(
    ("given", "args", "may"),
    [
        (setup(), arguments(), True),
        (setup(has_formatters=False), arguments(), True),
        (setup(has_formatters=True), arguments(), False),
        (setup({}), arguments(), False),
        (setup(), arguments(otlp_traces_endpoint="http://127.0.0.1:4317"), False),
        (setup(), arguments(numa_bind=True), False),
    ],
    ids=["plain", "a handler", "formatters run here", "the user said how", "traces", "NUMA"],
)
def test_may_fork(given: Any, args: Namespace, may: bool) -> None:
    assert _may_fork(given, args) is may


def test_another_programs_thread() -> None:
    with ThreadPoolExecutor() as pool:
        assert not pool.submit(_may_fork, setup(), arguments()).result()
