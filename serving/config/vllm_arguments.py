# SPDX-License-Identifier: Apache-2.0
"""What vLLM's own arguments are, from a committed snapshot of the pinned parser.

`vllm_arguments.json` is written by `python -m serving.engine.snapshot` and compared with the real parser by a test.
It feeds the command line, value checks, nearest matches and the hand-over to vLLM's parser, which stays the judge.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from serving.config.values import NONE, PARSERS, parse_counts

REFUSED: Mapping[str, str] = {
    "config": "it is a flag: lmi serve --config FILE",
    "api_server_count": "one process serves HTTP here; scale with --data-parallel-size or more replicas",
    "data_parallel_external_lb": "run one server per replica behind your load balancer instead",
    "data_parallel_hybrid_lb": "run one server per replica behind your load balancer instead",
    "data_parallel_multi_port_external_lb": "run one server per replica behind your load balancer instead",
    "data_parallel_supervisor_port": "there is no supervisor process here",
    "dp_supervisor_probe_failure_threshold": "there is no supervisor process here",
    "dp_supervisor_probe_interval_s": "there is no supervisor process here",
    "dp_supervisor_probe_timeout_s": "there is no supervisor process here",
    "grpc": "this server speaks HTTP only",
    "grpc_port": "this server speaks HTTP only",
    "headless": "this server always listens",
}
"""vLLM arguments that are not ours to honour, each with what to do instead."""


@dataclass(frozen=True, slots=True)
class VllmArgument:
    """One argument of `vllm serve`.

    Attributes:
        name: its name in vLLM's namespace, with underscores.
        flags: spellings on the command line; the first positive long one is used to hand it over.
        kind: a key of `values.PARSERS`.
        choices: the only texts allowed, or None.
        frontend: it configures the HTTP server, not the engine.
    """

    name: str
    flags: tuple[str, ...]
    kind: str
    choices: tuple[str, ...] | None
    frontend: bool

    def parse(self, text: str) -> Any:
        """The typed value of `text`; None, for the default, where the text is empty, `None` or `null`.

        Raises:
            ValueError: the text does not fit, with what would.
        """
        if text.strip().lower() in NONE and text not in (self.choices or ()):
            return None
        if self.name == "limit_mm_per_prompt" and (counts := parse_counts(text)) is not None:
            return counts
        value = PARSERS[self.kind](text)
        if self.choices is not None and str(value) not in self.choices:
            raise ValueError(f"expected one of {', '.join(self.choices)}")
        return value

    def tokens(self, value: Any) -> list[str]:
        """What to put on vLLM's command line so that its parser reads `value`; empty for "not set"."""
        flag = self.flags[0]
        if value is None:
            return []
        if self.kind == "switch":
            return [flag] if value else []
        if self.kind == "bool":
            negative = next((name for name in self.flags if name.startswith("--no-")), None)
            return [flag] if value else [negative] if negative else []
        if self.kind == "append":
            return [f"{flag}={item}" for item in value]
        if self.kind == "list":
            return [flag, *value] if value else []
        if self.kind == "str_or_switch" and value == "true":
            return [flag]
        return [f"{flag}={_as_text(value)}"]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@cache
def arguments() -> Mapping[str, VllmArgument]:
    """Every argument of the pinned `vllm serve`, by name."""
    return {
        name: VllmArgument(
            name=name,
            flags=tuple(row["flags"]),
            kind=row["kind"],
            choices=tuple(row["choices"]) if row["choices"] is not None else None,
            frontend=row["frontend"],
        )
        for name, row in json.loads(_snapshot("vllm_arguments.json")).items()
    }


@cache
def parsers() -> Mapping[str, Sequence[str]]:
    """The names that `tool_call_parser` and `reasoning_parser` may have without a plug-in."""
    found: dict[str, list[str]] = json.loads(_snapshot("vllm_parsers.json"))
    return found


def _snapshot(file: str) -> str:
    return resources.files("serving.config").joinpath(file).read_text("utf-8")


@cache
def by_flag() -> Mapping[str, VllmArgument]:
    """Every spelling on the command line, with dashes, to its argument."""
    return {flag: argument for argument in arguments().values() for flag in argument.flags}
