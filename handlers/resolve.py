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
from serving.formatters import older_chat
from serving.formatters.registry import NAMES
from serving.schemas.output import Defaults

logger = logging.getLogger(__name__)


OUTPUT_FORMATS = (*NAMES, *older_chat.MEDIA_TYPES)
"""What `option.output_formatter` may be."""


def without_effect(mode: Mode, options: LmiOptions) -> list[str]:
    """A warning for each option that means nothing in this mode."""
    warnings = []
    if options.bedrock_compat and mode.name != "rolling_batch":
        warnings.append("option.bedrock_compat has no effect: it belongs to rolling batch (option.rolling_batch=vllm)")
    if options.output_formatter in older_chat.MEDIA_TYPES and mode.name != "rolling_batch":
        warnings.append(
            f"output_formatter={options.output_formatter} has no effect: chats in it belong to rolling batch"
        )
    if options.lmi_default_greedy and mode.name != "async":
        warnings.append("option.lmi_default_greedy has no effect: it belongs to async mode")
    if mode.name == "embedding" and (options.output_formatter or options.tgi_compat):
        warnings.append("output_formatter and tgi_compat have no effect: this model embeds texts")
    if mode.name != "embedding" and not options.normalize:
        warnings.append("option.normalize has no effect: it belongs to a task that embeds texts")
    return warnings


def resolve(engine: Engine, mode: Mode, options: LmiOptions) -> Handler:
    """The handler for LMI's routes."""
    if mode.name == "async" and "generate" not in engine.tasks and "embed" in engine.tasks:
        mode = Mode("embedding", "the model embeds texts")
    logger.info("handler: %s, because %s", mode.name, mode.reason)
    if mode.name == "embedding":
        return EmbeddingHandler(engine)
    defaults = Defaults(
        mode=mode.name,
        output_formatter=options.output_formatter,
        tgi_compat=options.tgi_compat,
        greedy=options.lmi_default_greedy,
        formats=NAMES,
    )
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
