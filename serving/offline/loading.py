# SPDX-License-Identifier: Apache-2.0
"""Keyword arguments to a configuration, by the same rules as a server's. Used by `model.py` and `async_model.py`."""

import difflib
import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import demo
from serving.config import past
from serving.config.command_line import CommandLine
from serving.config.host import Host
from serving.config.options import LmiOptions, options
from serving.config.resolve import ResolvedConfig, resolve_line
from serving.config.sources import from_keywords
from serving.config.vllm_arguments import arguments

logger = logging.getLogger(__name__)

NO_FLAGS = frozenset({"enable_mm_processor_stats", "mamba_config"})
"""Keywords of vLLM's engine that `vllm serve` has no flags for."""
_FRONT_END_TOO = frozenset({"chat_template"})
_READ_VARIABLES = ("VLLM_", "CUDA_", "HF_HOME", "HF_HUB_", "XDG_CACHE_HOME", "PATH", "CXX")
"""Beginnings of variables that count here as well; those that configure a server do not."""
_SPAWN = "VLLM_WORKER_MULTIPROC_METHOD"
_IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
"""0: no process of its own for the engine."""


@dataclass(frozen=True, slots=True)
class Loading:
    """What an engine is to be started with.

    Attributes:
        config: the configuration; its warnings are logged already.
        objects: keywords whose values no text can say, such as functions and vLLM's own configuration objects.
        variables: for vLLM, which reads them when it is imported.
    """

    config: ResolvedConfig
    objects: Mapping[str, Any]
    variables: Mapping[str, str]

    def arguments(self) -> Namespace:
        """vLLM's namespace; imports vLLM, with the variables set that it reads then.

        Raises:
            ConfigError: vLLM refuses a value.
        """
        os.environ.update(self.variables)
        if "TORCHDYNAMO_DISABLE" in self.variables and "torch" in sys.modules:
            import torch

            torch._dynamo.config.disable = True  # the variable was read when torch was imported
        from serving.engine.engine_args import namespace

        args = namespace(self.config.vllm_arguments)
        for name, value in self.objects.items():
            setattr(args, name, value)
        return args


def prepare(
    model: str | Path, keywords: Mapping[str, Any], is_script: bool = False, env: Mapping[str, str] | None = None
) -> Loading:
    """The configuration of a model and the keywords of `vllm.LLM`, the model's own `serving.properties` included.

    Args:
        model: Hugging Face id or directory; `demo` is the model that comes with this package.
        keywords: vLLM's, LMI's names for the same, and those of the past, which cost a warning.
        is_script: on a CPU the engine computes in this process; it would otherwise import the program again, which only
            programs that begin with `if __name__ == "__main__":` survive.
        env: the process's variables.

    Raises:
        TypeError: a keyword that no engine has.
        ConfigError: a value that does not fit, with every problem found.
    """
    env = os.environ if env is None else env
    for name in keywords:
        _check(name)
    objects = {name: value for name, value in keywords.items() if name in NO_FLAGS or not _is_text(value)}
    texts = {name: _plain(value) for name, value in keywords.items() if name not in objects}
    line = CommandLine(settings=from_keywords(texts), demo=str(model) == "demo")
    if not line.demo:
        line.model = str(model)
    read = {name: text for name, text in env.items() if name.startswith(_READ_VARIABLES) and name != "VLLM_API_KEY"}
    config = resolve_line(line, read, Host.local(env), demo.MODEL_DIR)
    for warning in config.warnings:
        logger.warning("%s", warning)
    # How processes are started is the program's business, too.
    variables = {name: text for name, text in config.environment.items() if name != _SPAWN}
    if is_script and not config.has_devices and _IN_PROCESS not in env:
        variables[_IN_PROCESS] = "0"
    return Loading(config, objects, variables)


def _check(name: str) -> None:
    """Refuses what is no keyword of an engine."""
    argument, row = arguments().get(name), options().get(name)
    if argument is not None and (not argument.frontend or name in _FRONT_END_TOO):
        return
    if row is not None and row.table is LmiOptions and row.canonical in arguments():
        return
    if name in NO_FLAGS or name in past.IGNORED or name in past.REPLACED:
        return
    if argument is not None or row is not None:
        raise TypeError(f"keyword {name!r} configures a server; there is none here")
    engine = [known for known, argument in arguments().items() if not argument.frontend]
    near = difflib.get_close_matches(name, engine, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise TypeError(f"vLLM's engine has no keyword {name!r}{hint}")


def _is_text(value: Any) -> bool:
    """A configuration file could say it."""
    try:
        json.dumps(_plain(value))
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    """Paths and torch's types as texts."""
    if isinstance(value, Path):
        return str(value)
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value).removeprefix("torch.")
    return sorted(value) if isinstance(value, set | frozenset) else value
