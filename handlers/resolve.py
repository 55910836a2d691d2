# SPDX-License-Identifier: Apache-2.0
"""Chooses the handler once, at start, and says in one line which one and why."""

import logging

from handlers.base import Handler
from handlers.default import DefaultHandler
from serving.engine.base import Engine

logger = logging.getLogger(__name__)


def resolve(engine: Engine) -> Handler:
    """The handler for this server's requests."""
    logger.info("handler: default (async), because nothing asks for another")
    return DefaultHandler(engine)
