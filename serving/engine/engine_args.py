# SPDX-License-Identifier: Apache-2.0
"""Typed vLLM arguments to the namespace that vLLM's own parser makes of them; the parser is the judge.

Called by `cli.py` between resolving and the engine's start.
"""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from serving.config.vllm_arguments import arguments
from serving.errors import ConfigError, Problem


def namespace(values: Mapping[str, Any]) -> Namespace:
    """VLLM's namespace for `values` (argument name to typed value), front-end arguments included.

    Raises:
        ConfigError: vLLM's parser or its checks refuse a value (`ARGPARSE`).
    """
    from serving.engine.vllm_app import check_arguments, serve_parser

    tokens = [token for name, value in values.items() for token in arguments()[name].tokens(value)]
    try:
        parsed: Namespace = serve_parser().parse_args(tokens)
        check_arguments(parsed)
    except (ValueError, TypeError, KeyError) as error:
        text = " ".join(str(error.args[0] if error.args else error).split())
        raise ConfigError([Problem("ARGPARSE", f"vLLM refuses an argument: {text}")]) from None
    return parsed
