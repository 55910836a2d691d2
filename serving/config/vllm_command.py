# SPDX-License-Identifier: Apache-2.0
"""A configuration as the `vllm serve` command that means the same to the engine, and such a command as options.

Called by `cli.py` for `lmi config --as-vllm` and `--from-vllm`.
"""

import re
import shlex
from collections.abc import Mapping

import javaproperties

from serving.config.command_line import scan
from serving.config.masking import masked
from serving.config.options import options
from serving.config.resolve import ResolvedConfig
from serving.config.vllm_arguments import arguments
from serving.errors import ConfigError, Problem

_COMMANDS = (
    ["vllm", "serve"],
    ["lmi", "serve"],
    ["python", "-m", "vllm.entrypoints.openai.api_server"],
    ["python3", "-m", "vllm.entrypoints.openai.api_server"],
)
_VLLMS_OWN = {"tensor_parallel_size": "1"}
"""Defaults of vLLM's where LMI has others."""


def as_vllm(config: ResolvedConfig, shows_secrets: bool = False) -> str:
    """The command, with the variables that the engine is given in front; secrets are `***` unless they are to show."""
    values = {
        name: value if shows_secrets else masked(name, value)
        for name, value in sorted(config.vllm_arguments.items())
        if name != "model"
    }
    tokens = [token for name, value in values.items() for token in arguments()[name].tokens(value)]
    variables = [
        f"{name}={shlex.quote(value if shows_secrets else masked(name, value))}"
        for name, value in config.environment.items()
    ]
    return " ".join([*variables, shlex.join(["vllm", "serve", str(config.vllm_arguments["model"]), *tokens])])


def from_vllm(command: str) -> str:
    """The lines of a `serving.properties` that stand for the command; variables in front go to `option.env`.

    Raises:
        ConfigError: it is no such command, or has a flag that vLLM, or this server, does not take.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError([Problem("USAGE", f"the command cannot be read: {error}")]) from None
    variables: dict[str, str] = {}
    while words and (match := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0], re.DOTALL)):
        variables[match[1]] = match[2]
        words.pop(0)
    for name, value in variables.items():
        if re.search(r",\s*[A-Za-z_]\w*\s*=", value):
            text = f"the variable {name} cannot stand in option.env: its value looks like several"
            raise ConfigError([Problem("USAGE", text, remedy="set it where the server is started")])
    command_words = next((known for known in _COMMANDS if words[: len(known)] == known), [])
    line = scan(words[len(command_words) :])
    if line.problems:
        raise ConfigError(line.problems)
    if line.config_file is not None:
        text = f"--config {line.config_file} is a file of flags, which lmi serve reads itself"
        raise ConfigError([Problem("USAGE", text, remedy="leave it out here, and give it to lmi serve")])
    if line.models or line.model_store or line.server_file or line.demo:
        raise ConfigError([Problem("USAGE", "the flags of LMI's own, such as -m, are none of vllm serve's")])
    given = {"model": line.model} if line.model is not None else {}
    given |= _VLLMS_OWN | {setting.name: setting.text for setting in line.settings}
    return "".join(f"{key}={javaproperties.escape(text)}\n" for key, text in _lines(given, variables))


def _lines(given: Mapping[str, str], variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """Keys and values, LMI's names where it has one; a list stays JSON, since its items may have commas."""
    lines = [("option.max_loras", "1")] if "enable_lora" in given and "max_loras" not in given else []
    for name, text in given.items():
        row = options().get(name)
        lines.append((row.key if row is not None else f"option.{name}", text))
    if variables:
        lines.append(("option.env", ",".join(f"{name}={text}" for name, text in variables.items())))
    return lines
