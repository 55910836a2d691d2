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
    """vLLM's namespace for `values` (argument name to typed value), front-end arguments included.

    Raises:
        ConfigError: vLLM's parser or its checks refuse a value (`ARGPARSE`).
    """
    from serving.engine.vllm_app import parse_arguments

    tokens = [token for name, value in values.items() for token in arguments()[name].tokens(value)]
    try:
        return parse_arguments(tokens)
    except ValueError as error:
        raise ConfigError([Problem("ARGPARSE", f"vLLM refuses an argument: {error}")]) from None


def check(args: Namespace) -> None:
    """Has vLLM make its configuration of `args`, which loads nothing but the model's description.

    Raises:
        ConfigError: vLLM refuses (`ENGINE`).
    """
    from vllm.engine.arg_utils import AsyncEngineArgs

    try:
        AsyncEngineArgs.from_cli_args(args).create_engine_config()
    except Exception as error:  # whatever a model's description or an argument makes vLLM raise
        text = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError([Problem("ENGINE", f"vLLM refuses the configuration: {text}")]) from None
