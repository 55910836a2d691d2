# SPDX-License-Identifier: Apache-2.0
"""Starts that are to fail."""

import os
import subprocess

from tests.e2e.process import LMI


def refused(*arguments: str, timeout_s: float = 120, **env: str) -> tuple[int, list[str]]:
    """Exit code of `lmi serve` with these arguments and variables, and the lines it calls errors."""
    command = [LMI, "serve", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, check=False, env={**os.environ, **env}
    )
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("lmi: error:")]
