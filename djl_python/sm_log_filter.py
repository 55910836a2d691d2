# SPDX-License-Identifier: Apache-2.0
"""A log filter that lets only SageMaker's health lines through, in the form that its dashboards count."""

import logging

from djl_python import __version__

_PREFIX = "SysHealth"


class SMLogFilter(logging.Filter):
    """Turns `SysHealth: Some words: 1 secs` into `SysHealth.Count:1|#DJLServing:<version>,SomeWords:1 secs`."""

    def __init__(self, name: str = ""):
        super().__init__(name)
        self.counter = 0

    def filter(self, record: logging.LogRecord) -> logging.LogRecord | bool:  # type: ignore[override]  # Python 3.12's
        """The record with its new text; one that is malformed stays as it is, with a warning; False for the rest."""
        if not str(record.msg).startswith(_PREFIX):
            return False
        parts = [part.strip() for part in str(record.msg).split(":")]
        if len(parts) != 3:
            logging.getLogger(__name__).warning("A health line needs three parts, each after a colon: %s", record.msg)
            return record
        words = "".join(word[:1].upper() + word[1:] for word in parts[1].split())
        self.counter += 1
        record.msg = f"{_PREFIX}.Count:{self.counter}|#DJLServing:{__version__},{words}:{parts[2]}"
        return record
