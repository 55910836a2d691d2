# SPDX-License-Identifier: Apache-2.0
"""Checks what vLLM would find wrong only once the model is loaded: parsers' names and the chat template.

Called by `resolve.py` with vLLM's arguments.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.config.host import Host, absolute
from serving.config.vllm_arguments import parsers
from serving.errors import Problem

_PLUGINS = {"tool_call_parser": "tool_parser_plugin", "reasoning_parser": "reasoning_parser_plugin"}
_BUNDLED = re.compile(r"template_\w+\.jinja")
"""vLLM's own templates, which it finds by their name."""


def check_parsers(
    values: Mapping[str, Any], enable_reasoning: bool, problems: list[Problem], warnings: list[str]
) -> None:
    """Each parser is one that vLLM has, or a plug-in's; and what needs a parser has one."""
    for argument, plugin in _PLUGINS.items():
        name = values.get(argument)
        if name and not values.get(plugin) and name not in parsers()[argument]:
            text = f"{argument}={name!r}: vLLM has no such parser; it has {', '.join(parsers()[argument])}"
            problems.append(Problem("VALIDATION", text, remedy=f"or name a file of yours with {plugin}"))
    for option, is_on, argument in (
        ("enable_auto_tool_choice", values.get("enable_auto_tool_choice"), "tool_call_parser"),
        ("enable_reasoning", enable_reasoning, "reasoning_parser"),
    ):
        if is_on and not values.get(argument):
            text = f"{option}=true needs {argument}: one of {', '.join(parsers()[argument])}"
            problems.append(Problem("VALIDATION", text, remedy=f"set option.{argument}"))
    if values.get("tool_call_parser") and not values.get("enable_auto_tool_choice"):
        warnings.append("tool_call_parser is not used for tool_choice=auto without enable_auto_tool_choice=true")


def chat_template(text: str, model_dir: Path | None, host: Host, problems: list[Problem]) -> str:
    """The template's file with its full path; a template that is written out, and vLLM's own, stay as they are."""
    if any(sign in text for sign in "{}\n"):
        return text
    if model_dir is not None and not Path(text).is_absolute() and (model_dir / text).is_file():
        return host.text(model_dir / text)
    if host.path(text).is_file():
        return absolute(text)
    if not _BUNDLED.fullmatch(text):
        where = f" in {model_dir} or here" if model_dir is not None else ""
        remedy = "a path is meant from the model directory; a template itself has {{ }} in it"
        problems.append(Problem("NOT_FOUND", f"chat_template={text!r}: no such file{where}", remedy=remedy))
    return text


def check_kv_transfer(values: Mapping[str, Any], problems: list[Problem]) -> None:
    """A connector needs a role."""
    config = values.get("kv_transfer_config")
    if isinstance(config, dict) and config.get("kv_connector") and not config.get("kv_role"):
        text = "kv_transfer_config has a kv_connector and no kv_role"
        problems.append(Problem("ARGPARSE", text, remedy='add "kv_role": "kv_both", "kv_producer" or "kv_consumer"'))
