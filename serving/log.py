# SPDX-License-Identifier: Apache-2.0
"""Logging set-up, called once by `cli.py`; importing this module changes nothing."""

import logging
import sys

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_JSON = "%(asctime)s %(levelname)s %(name)s %(processName)s %(process)d %(message)s"
"""The fields of vLLM's own JSON lines, so that all lines have the same."""


def setup(level: int = logging.INFO, is_json: bool = False) -> None:
    """Our loggers and a user's code (`model.*`) write a line per record to standard error, others from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json() if is_json else logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("serving", "handlers", "model"):
        logging.getLogger(name).setLevel(level)


def _json() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(_JSON)
