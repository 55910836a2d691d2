# SPDX-License-Identifier: Apache-2.0
"""What a child process printed is passed on, and its last exception is found."""

import subprocess
import sys

import pytest

from serving.engine.child_output import ChildOutput

pytestmark = pytest.mark.pure

PREFIX = "(EngineCore pid=12) ERROR 11-21 08:00:00 [core.py:1] "


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ([PREFIX + "ValueError: No weights in /x", "RuntimeError: Engine core initialization failed. See above"],
         "No weights in /x"),
        (["torch.OutOfMemoryError: CUDA out of memory"], "torch.OutOfMemoryError: CUDA out of memory"),
        ([PREFIX + "ValueError: no kernel. Reasons: ", PREFIX + " A: too old", PREFIX + " B: too new", PREFIX + "bye"],
         "no kernel. Reasons: A: too old; B: too new"),
        (["all is well"], None),
    ],
)  # fmt: skip
def test_root_cause(lines: list[str], cause: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    output = ChildOutput()
    with output:
        script = f"import sys; print({chr(10).join(lines)!r}, file=sys.stderr)"
        child = subprocess.Popen([sys.executable, "-c", script])
        child.wait()
    output.join()
    assert output.root_cause() == cause
    assert capfd.readouterr().err == "\n".join(lines) + "\n"
