# SPDX-License-Identifier: Apache-2.0
"""Chooses the handler once, at start, and says in one line which one and why."""

import logging
from collections.abc import Mapping

from handlers.base import Handler
from handlers.default import DefaultHandler
from handlers.embedding import EmbeddingHandler
from handlers.rolling_batch import RollingBatchHandler
from handlers.tgi import TgiHandler
from serving.config.mode import Mode
from serving.config.options import LmiOptions
from serving.engine.base import Engine
from serving.schemas.output import Defaults

logger = logging.getLogger(__name__)


def resolve(engine: Engine, mode: Mode, options: LmiOptions) -> Handler:
    """The handler for LMI's routes."""
    logger.info("handler: %s, because %s", mode.name, mode.reason)
    if mode.name == "embedding":
        return EmbeddingHandler(engine)
    defaults = Defaults(mode.name, options.output_formatter, options.tgi_compat, options.lmi_default_greedy)
    if mode.name == "rolling_batch":
        return RollingBatchHandler(engine, defaults, options.enable_lora, options.bedrock_compat)
    return DefaultHandler(engine, defaults)


def tgi_routes(engine: Engine) -> Mapping[str, Handler]:
    """The handlers for TGI's routes, by path; they are the same in every mode."""
    return {
        "/": TgiHandler(engine, stream="body"),
        "/generate": TgiHandler(engine, stream=False),
        "/generate_stream": TgiHandler(engine, stream=True),
    }
