# SPDX-License-Identifier: Apache-2.0
"""Reads the text of one option's value into a typed value, by the kind of the option.

Called by `options.py` and `resolve.py`. One parser per kind, the same for LMI's own options and for vLLM's
arguments, so that `true`, `1` and `on` mean the same everywhere (tests/conformance/data/configuration.yaml).
"""

import ast
import json
import re
from collections.abc import Callable
from typing import Any

TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
FALSE = frozenset({"false", "0", "no", "off", "f", "n"})
NONE = frozenset({"", "none", "null"})
_SUFFIXES = {
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40,
}  # fmt: skip


class BadValue(ValueError):
    """A value that does not fit. Subclasses are the contract's kinds of problem that are not `VALIDATION`."""

    kind = "VALIDATION"


class NotWholeNumber(BadValue):
    """A whole number was expected."""

    kind = "BAD_INT"


class Unsupported(BadValue):
    """The value is one of LMI's, and means something that this server is not: another backend, mostly."""

    kind = "UNSUPPORTED"


def parse_bool(text: str) -> bool:
    """`true/1/yes/on/t/y` or `false/0/no/off/f/n`, in any case.

    Raises:
        ValueError: the text is none of them.
    """
    word = text.strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise ValueError("expected true or false")


def parse_int(text: str) -> int:
    """Decimal digits with an optional sign; `64.0` is 64.

    Raises:
        NotWholeNumber: the text is none.
    """
    if match := re.fullmatch(r"([+-]?[0-9]+)(\.0+)?", text.strip()):
        return int(match[1])
    raise NotWholeNumber("expected a whole number")


def parse_human_int(text: str) -> int:
    """A whole number with vLLM's suffixes: `16k` is 16000, `16K` is 16384, `1.5k` is 1500, `auto` is -1.

    Raises:
        ValueError: the text is none of that.
    """
    if text.strip().lower() == "auto":
        return -1
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgtKMGT])", text.strip())
    if match is None:
        return parse_int(text)
    number, suffix = match.groups()
    if "." in number and suffix.isupper():
        raise ValueError(f"expected a whole number before the binary suffix {suffix}")
    return int(float(number) * _SUFFIXES[suffix])


def parse_float(text: str) -> float:
    """A decimal number.

    Raises:
        ValueError: the text is not a number.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError("expected a number") from None


def parse_numbers(text: str) -> tuple[float, ...]:
    """A number, a list of them in any bracket, or a comma-separated list.

    Raises:
        ValueError: something in it is no number.
    """
    return tuple(parse_float(item.strip()) for item in text.strip().strip("[]()").rstrip(",").split(","))


def parse_json(text: str) -> Any:
    """JSON; also wrapped in one pair of quotes, with escaped quotes, or written as a Python literal.

    Raises:
        ValueError: none of these forms reads; the message gives JSON's own reason.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        reason = str(error)
    else:
        return parse_json(value) if isinstance(value, str) and value.lstrip().startswith(("{", "[")) else value
    stripped = text.strip()
    attempts = [stripped.replace('\\"', '"')]
    if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "'\"":
        attempts += [stripped[1:-1], stripped[1:-1].replace('\\"', '"')]
    for attempt in attempts:
        try:
            return json.loads(attempt)
        except json.JSONDecodeError:
            continue
    try:
        return json.loads(json.dumps(ast.literal_eval(stripped)))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"expected JSON: {reason}") from None


def is_json_object(text: str) -> bool:
    """`text` reads as it stands, without the leniency of `parse_json`."""
    try:
        return isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False


def parse_counts(text: str) -> dict[str, int] | None:
    """The older notation of a JSON object of numbers, `image=4,video=2`; None where the text is not that."""
    if not re.fullmatch(r"\w+=[0-9]+(,\w+=[0-9]+)*", text.strip()):
        return None
    return {name: int(count) for name, count in (pair.split("=") for pair in text.strip().split(","))}


def parse_str(text: str) -> str:
    """The text itself, unless it is a switch's: that is a misunderstanding, and LMI refuses it too.

    Raises:
        ValueError: the text is `true` or `false`.
    """
    if text.strip().lower() in ("true", "false"):
        raise ValueError("expected a text")
    return text


def parse_json_object(text: str) -> dict[str, Any]:
    """A JSON object, as lenient as `parse_json`.

    Raises:
        ValueError: the text is not JSON, or not an object.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def parse_json_or_str(text: str) -> Any:
    """A JSON object where the text starts with a brace, else the text itself."""
    return parse_json_object(text) if text.lstrip().startswith("{") else text


def parse_list(text: str) -> list[str]:
    """A JSON array, or a comma-separated list; a lone JSON object is one element.

    Raises:
        ValueError: the text starts like a JSON array and is none.
    """
    stripped = text.strip()
    if stripped.startswith("["):
        items = parse_json(stripped)
        if not isinstance(items, list):
            raise ValueError("expected a list")
        return [item if isinstance(item, str) else json.dumps(item) for item in items]
    if stripped.startswith("{"):
        return [stripped]
    return [item.strip() for item in stripped.split(",") if item.strip()]


PARSERS: dict[str, Callable[[str], Any]] = {
    "bool": parse_bool,
    "switch": parse_bool,
    "int": parse_int,
    "human_int": parse_human_int,
    "float": parse_float,
    "str": parse_str,
    "json": parse_json,
    "json_or_str": parse_json_or_str,
    "list": parse_list,
    "append": parse_list,
    "str_or_switch": str,
}
"""Kind of a vLLM argument (as in `vllm_arguments.json`) to the function that reads its text."""
