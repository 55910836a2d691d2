# SPDX-License-Identifier: Apache-2.0
"""Logging set-up, called once by `cli.py`; importing this module changes nothing."""

import logging
import sys


def setup(level: int = logging.INFO) -> None:
    """Our loggers and a user's code (`model.*`) write a line per record to standard error, others from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("serving", "handlers", "model"):
        logging.getLogger(name).setLevel(level)
