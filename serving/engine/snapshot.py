# SPDX-License-Identifier: Apache-2.0
"""Writes `serving/config/vllm_*.json` from the installed vLLM: `python -m serving.engine.snapshot`.

Run after the pin moves; a test compares the files with what it makes. Knows argparse, not what the arguments mean.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[1] / "config" / "vllm_arguments.json"
PARSERS_TARGET = TARGET.with_name("vllm_parsers.json")


def snapshot() -> dict[str, dict[str, Any]]:
    """Name, flags, kind, choices of every argument that `vllm serve` takes."""
    from serving.engine.vllm_app import serve_parser, split_arguments

    frontend, _ = split_arguments()
    return {
        action.dest: {
            "flags": _flags(action),
            "kind": _kind(action),
            "choices": [str(choice) for choice in action.choices] if action.choices is not None else None,
            "frontend": action.dest in frontend,
        }
        for action in sorted(serve_parser()._actions, key=lambda action: action.dest)
        if action.option_strings
    }


def parsers() -> dict[str, list[str]]:
    """Argument to the names of the parsers that it may have; plug-ins add to them."""
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    return {
        "reasoning_parser": sorted(ReasoningParserManager.list_registered()),
        "tool_call_parser": sorted(ToolParserManager.list_registered()),
    }


def _flags(action: argparse.Action) -> list[str]:
    """The positive long flag first: it is the one that hands a value over."""
    return sorted(action.option_strings, key=lambda flag: (not flag.startswith("--"), flag.startswith("--no-")))


def _kind(action: argparse.Action) -> str:
    """One of the kinds of `values.PARSERS`, found by feeding samples to the argument's own type function."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return "bool"
    if action.nargs == 0:
        return "switch"
    if isinstance(action, argparse._AppendAction):
        return "append"
    if action.nargs in ("+", "*"):
        return "list"
    if action.nargs == "?":
        return "str_or_switch"
    if action.type is None or action.type is str:
        return "str"
    if isinstance(_reads(action.type, "7"), int) and not isinstance(_reads(action.type, "0.5"), float):
        return "human_int" if _reads(action.type, "1k") == 1000 else "int"
    if isinstance(_reads(action.type, "7"), float):
        return "float"
    if _reads(action.type, "abc") != "abc":
        return "json"
    return "json_or_str" if isinstance(_reads(action.type, '{"a": 1}'), dict) else "str"


def _reads(parse: Callable[[str], Any] | Any, text: str) -> Any:
    """What the type function makes of `text`; the exception itself where it refuses."""
    if parse is None:
        return text
    try:
        return parse(text)
    except Exception as error:  # vLLM's type functions raise whatever they like
        return error


if __name__ == "__main__":
    for target, content in ((TARGET, snapshot()), (PARSERS_TARGET, parsers())):
        target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
