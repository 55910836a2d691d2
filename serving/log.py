# SPDX-License-Identifier: Apache-2.0
"""Logging set-up, called once by `cli.py`; importing this module changes nothing."""

import logging
import sys


def setup(level: int = logging.INFO) -> None:
    """Our loggers write one line per record to standard error; other libraries from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("serving", "handlers"):
        logging.getLogger(name).setLevel(level)
