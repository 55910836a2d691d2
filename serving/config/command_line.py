# SPDX-License-Identifier: Apache-2.0
"""Reads the raw arguments of `lmi serve`: LMI's own flags, a positional model, every vLLM flag in any spelling.

A general command-line library misreads vLLM's flags (underscores, single-dash groups, dotted keys, lists), so this
scans against the snapshot, and against the flags that vLLM once had (`past.py`). Called by `resolve.py`; it decides
nothing about precedence.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.config import past
from serving.config.sources import Setting
from serving.config.values import parse_human_int
from serving.config.vllm_arguments import REFUSED, VllmArgument, by_flag
from serving.errors import Problem

USAGE = """\
usage: lmi serve [MODEL] [flags]

  MODEL                    Hugging Face id or local directory (also HF_MODEL_ID, or option.model_id in the
                           serving.properties of the model store)
  --demo                   serve the small bundled model
  -m, --models NAME=MODEL  the model under an endpoint name, as LMI's -m
  -s, --model-store DIR    a directory with serving.properties and model files, as LMI's -s
  -f, --config-file FILE   the server's own keys, as LMI's config.properties
  --host, --port           where to listen (127.0.0.1:8080)
  --port-file FILE         where to write the port once the server is ready, as for --port 0
  --config FILE            vLLM's YAML file of flags
  --tool-fallback on|off   calls of functions without a tool_call_parser (on)

Every flag of `vllm serve` is taken as well, with dashes or underscores. Options of LMI come from serving.properties
(option.NAME=VALUE) and the environment (OPTION_NAME=VALUE); a flag beats both."""

_OURS_WITH_VALUE = {
    "-m": "models", "--models": "models",
    "-s": "model_store", "--model-store": "model_store",
    "-f": "server_file", "--config-file": "server_file",
    "--port-file": "port_file", "--port_file": "port_file",
}  # fmt: skip
_OTHER_NAMES = {"--gpu-memory": "--gpu-memory-utilization"}
"""Flags of programs that start vLLM, and vLLM's own for the same."""


@dataclass(slots=True)
class CommandLine:
    """What the arguments say, before anything else is known.

    Attributes:
        settings: vLLM flags, in the order given; a later one of the same name wins.
        model: the positional model.
        models: the value of LMI's `-m`.
        model_store: the value of LMI's `-s`.
        server_file: the value of LMI's `-f`.
        config_file: the value of vLLM's `--config`.
        port_file: where the port is to be written once the server is ready.
        demo: serve the bundled demo model.
        help: print the usage instead.
    """

    settings: list[Setting] = field(default_factory=list)
    model: str | None = None
    models: str | None = None
    model_store: str | None = None
    server_file: str | None = None
    config_file: str | None = None
    port_file: str | None = None
    demo: bool = False
    help: bool = False
    problems: list[Problem] = field(default_factory=list)


def wants_help(argv: Sequence[str]) -> bool:
    """The user asks what the command takes."""
    return scan(argv).help


def scan(argv: Sequence[str]) -> CommandLine:
    """Reads `argv` (without the command word); what cannot be read becomes a problem of kind `USAGE`."""
    line = CommandLine()
    nested: dict[str, tuple[str, dict[str, Any]]] = {}
    tokens = _Tokens(argv)
    for token in tokens:
        try:
            _read(token, tokens, line, nested)
        except ValueError as error:
            line.problems.append(Problem("USAGE", str(error), remedy="see lmi serve --help"))
    line.settings += [
        Setting(name, json.dumps(value), f"command line {flag}") for name, (flag, value) in nested.items()
    ]
    for setting in line.settings:
        if setting.name in REFUSED:
            line.problems.append(
                Problem("USAGE", f"{setting.name} is not supported", setting.origin, REFUSED[setting.name])
            )
    return line


class _Tokens:
    """The arguments, with a look at the next one."""

    def __init__(self, argv: Sequence[str]):
        self._argv = list(argv)
        self._next = 0

    def __iter__(self) -> Iterator[str]:
        while self._next < len(self._argv):
            self._next += 1
            yield self._argv[self._next - 1]

    def has_value(self) -> bool:
        """The next argument exists and is no flag; `-1` and `-0.5` are values."""
        if self._next >= len(self._argv):
            return False
        token = self._argv[self._next]
        return not token.startswith("-") or token == "-" or re.fullmatch(r"-\d+(\.\d+)?", token) is not None

    def value(self, flag: str) -> str:
        if not self.has_value():
            raise ValueError(f"{flag} expects a value")
        self._next += 1
        return self._argv[self._next - 1]


def _read(token: str, tokens: _Tokens, line: CommandLine, nested: dict[str, tuple[str, dict[str, Any]]]) -> None:
    written, equals, attached = token.partition("=")
    if not token.startswith("-") or token == "-":
        if line.model is not None:
            raise ValueError(f"unexpected argument {token!r}: the model is already {line.model!r}")
        line.model = token
    elif token in ("-h", "--help"):
        line.help = True
    elif token == "--demo":
        line.demo = True
    elif written in _OURS_WITH_VALUE:
        setattr(line, _OURS_WITH_VALUE[written], attached if equals else tokens.value(written))
    elif written.replace("_", "-") == "--tool-fallback":
        value = attached if equals else tokens.value(written)
        line.settings.append(Setting("tool_fallback", value, "command line --tool-fallback"))
    elif match := re.fullmatch(r"-O=?([0-9A-Za-z]+)", token):
        line.settings.append(Setting("optimization_level", match[1], "command line -O"))
    else:
        flag, *path = re.sub(r"(?<=--)[^.]*", lambda name: name[0].replace("_", "-"), written, count=1).split(".")
        argument = _lookup(_OTHER_NAMES.get(flag, flag), written)
        if path:
            _nest(nested, argument, flag, path, attached if equals else tokens.value(written))
        elif argument.name == "config":
            line.config_file = attached if equals else tokens.value(written)
        else:
            text = _text(argument, flag, attached if equals else None, tokens)
            if argument.kind == "append":
                text = _appended(line.settings, argument.name, text)
            line.settings.append(Setting(argument.name, text, f"command line {written}"))


def _lookup(flag: str, written: str) -> VllmArgument:
    known = by_flag()
    if (argument := known.get(flag) or past.by_flag().get(flag)) is not None:
        return argument
    matches = {argument.name: argument for name, argument in known.items() if name.startswith(flag)}
    if len(matches) == 1 and flag.startswith("--"):
        return next(iter(matches.values()))
    ours = ("--demo", "--models", "--model-store", "--config-file")
    near = difflib.get_close_matches(flag, [*known, *past.by_flag(), *ours], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"unknown flag {written}{hint}")


def _text(argument: VllmArgument, flag: str, attached: str | None, tokens: _Tokens) -> str:
    """The value of one flag as the text that `VllmArgument.parse` reads."""
    if argument.kind in ("bool", "switch"):
        if flag.startswith("--no-") and argument.kind == "bool":
            if attached is not None:
                raise ValueError(f"{flag} takes no value")
            return "false"
        return attached if attached is not None else "true"
    if argument.kind == "str_or_switch" and attached is None and not tokens.has_value():
        return "true"
    if argument.kind == "list":
        items = [attached] if attached is not None else [tokens.value(flag)]
        while attached is None and tokens.has_value():
            items.append(tokens.value(flag))
        return json.dumps(items)
    return attached if attached is not None else tokens.value(flag)


def _appended(settings: Sequence[Setting], name: str, text: str) -> str:
    """The values of a flag that may be repeated, the earlier ones included, as a JSON array."""
    earlier = next((setting.text for setting in reversed(settings) if setting.name == name), "[]")
    return json.dumps([*json.loads(earlier), text])


def _nest(
    nested: dict[str, tuple[str, dict[str, Any]]], argument: VllmArgument, flag: str, path: list[str], text: str
) -> None:
    """Merges `--name.a.b value` (and `--name.a+ value`, which extends a list) into the argument's JSON object."""
    value: Any = text.split(",") if path[-1].endswith("+") else _scalar(text)
    path[-1] = path[-1].removesuffix("+")
    target = nested.setdefault(argument.name, (flag, {}))[1]
    for key in path[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise ValueError(f"{flag}.{'.'.join(path)}: {key} has a value already, which is no object")
    if isinstance(value, list) and isinstance(target.get(path[-1]), list):
        target[path[-1]] += value
    else:
        target[path[-1]] = value


def _scalar(text: str) -> Any:
    for read in (json.loads, parse_human_int):
        try:
            return read(text)
        except ValueError:
            continue
    return text
