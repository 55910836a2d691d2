# SPDX-License-Identifier: Apache-2.0
"""The engine's process is a fork that has nothing of the server's."""

import multiprocessing
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from vllm.platforms import current_platform
from vllm.utils.system_utils import get_mp_context

from serving.engine import vllm_fork
from serving.engine.child_output import ChildOutput
from serving.server import bind

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not current_platform.is_cpu(), reason="on a CPU alone"),
]
METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM's configuration leaves it on a CPU."""
    monkeypatch.setenv(METHOD, "spawn")


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """What a server has before its engine starts: its port, and ways to hear of signals."""
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setblocking(False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(theirs.fileno())
    try:
        with bind("127.0.0.1", 0) as sock:
            yield sock
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        ours.close()
        theirs.close()


def files() -> Counter[str]:
    """What the open descriptors of this process stand for, and how many there are of each."""
    found = Counter[str]()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            found[os.readlink(f"/proc/self/fd/{name}")] += 1
    return found


def seen(pipe: Any, own: set[str]) -> None:
    """Runs in the child."""
    pipe.send({
        "wakeup": signal.set_wakeup_fd(-1),
        "is_default": [signal.getsignal(one) is signal.SIG_DFL for one in (signal.SIGTERM, signal.SIGINT)],
        "method": os.environ[METHOD],
        "kept": {name: count for name, count in files().items() if name in own},
    })  # fmt: skip


def asked(context: Any, listening: socket.socket) -> dict[str, Any]:
    """What a child of this process finds, of what the server opens for itself among other things."""
    here, there = context.Pipe()
    output = ChildOutput()
    with output:
        port, *pipes = (os.readlink(f"/proc/self/fd/{number}") for number in (listening.fileno(), 1, 2))
        child = context.Process(target=seen, args=(there, {port, *pipes}))
        child.start()
        there.close()
    found: dict[str, Any] = here.recv()
    child.join()
    assert found.pop("kept") == dict.fromkeys(pipes, 1), "it has an end to write to of each pipe, and no port"
    return found


def test_child(listening: socket.socket) -> None:
    with vllm_fork.forking():
        context = get_mp_context()
        assert context.get_start_method() == "fork"
        found = asked(context, listening)
    assert found == {"wakeup": -1, "is_default": [True, True], "method": "spawn"}
    assert get_mp_context().get_start_method() == "spawn"
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert listening.getsockname()[1] > 0


def test_other_forks_keep_theirs(listening: socket.socket) -> None:
    """Outside of the block a fork is nobody's engine: it only gives up what is the server's own."""
    found = asked(multiprocessing.get_context("fork"), listening)
    assert found["wakeup"] > 0
    assert found["is_default"] == [False, False]


def test_failed_start() -> None:
    with pytest.raises(ValueError, match="no engine"), vllm_fork.forking():
        raise ValueError("no engine")
    assert os.environ[METHOD] == "spawn"
    assert get_mp_context().get_start_method() == "spawn"
