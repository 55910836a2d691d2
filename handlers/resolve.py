# SPDX-License-Identifier: Apache-2.0
"""Chooses the handler once, at start, and says in one line which one and why."""

import logging

from handlers.base import Handler
from handlers.default import DefaultHandler
from handlers.rolling_batch import RollingBatchHandler
from serving.config.mode import Mode
from serving.config.options import LmiOptions
from serving.engine.base import Engine

logger = logging.getLogger(__name__)


def resolve(engine: Engine, mode: Mode, options: LmiOptions) -> Handler:
    """The handler for this server's requests."""
    logger.info("handler: %s, because %s", mode.name, mode.reason)
    if mode.name == "rolling_batch":
        return RollingBatchHandler(engine, has_adapters=options.enable_lora)
    return DefaultHandler(engine)
