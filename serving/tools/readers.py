# SPDX-License-Identifier: Apache-2.0
"""Finds calls in what a model writes, piece by piece, and never gives out half of one.

`TextReader` reads free text, in which a call may stand; `ListReader` and `ArgumentsReader` what a model was made to
write. All take the text as it comes and give calls, and text that is certainly none, as soon as that is known. Each
character is looked at a few times, however long a text is.
"""

from typing import Any, Protocol

import regex
from pydantic_core import from_json

from serving.tools.functions import KEYS, Call, Functions, decoded

_OPENING = regex.compile(r"<tool_call>\s{0,64}|```(?:json|tool_call|tool_code)?[ \t]{0,64}\r?\n\s{0,64}|(?=[{\[])")
"""What stands in front of a call's JSON: a tag, a fence, or nothing."""
_MARKS = regex.compile(r"[<`{\[]")
_CLOSING = {"<": "</tool_call>", "`": "```"}
_TAGS = ("<tool_call>", "```")
_BETWEEN = " \t\r\n,;"
"""What may stand between two calls and is no text."""
_HEAD = regex.compile(
    r'(?:\[\s{0,64})?\{\s{0,64}"(?:name|tool|arguments|parameters|params|args|id|type|function)"\s{0,64}:'
)
"""How the JSON of a call begins."""
_BLANKS = {number: " " for number in range(32)}
_FIRST_LOOK = 16
"""How much of a call is there when it is looked at for the first time; then each time that has doubled."""


class Reader(Protocol):
    """Reads one answer."""

    def feed(self, text: str, is_last: bool = False) -> list[Call | str]:
        """Takes the next piece; returns the calls and the texts that are complete by now, in order.

        Args:
            text: the piece.
            is_last: there will be no more, so nothing is held back.
        """
        ...


class PlainReader:
    """Text in which nothing is looked for."""

    def feed(self, text: str, is_last: bool = False) -> list[Call | str]:
        """As `Reader.feed`."""
        return [text] if text else []


class TextReader:
    """Free text: text is held back only while it may still turn out to be a call.

    Other JSON passes as text, with whatever stands inside of it.
    """

    def __init__(self, functions: Functions):
        self._functions = functions
        self._held = ""
        self._candidate: _Scan | None = None
        self._next_look = _FIRST_LOOK
        self._other: _Scan | None = None
        self._is_after_call = False
        self._mark = ""

    def feed(self, text: str, is_last: bool = False) -> list[Call | str]:
        """As `Reader.feed`."""
        self._held += text
        found: list[Call | str] = []
        begin = 0
        while begin < len(self._held):
            if self._is_after_call:
                end = self._behind_calls(begin, is_last)
                if end is None:
                    break
                begin = end
                continue
            end, calls = self._next(begin, is_last)
            if end is None:
                break
            found += calls or [self._held[begin:end]]
            self._is_after_call = bool(calls)
            begin = end
        self._held = self._held[begin:]
        return found

    def _behind_calls(self, begin: int, is_last: bool) -> int | None:
        """Where what follows a call begins, without its tag or fence; None: that is not known yet."""
        held = self._held
        while begin < len(held) and held[begin] in _BETWEEN:
            begin += 1
        closing = _CLOSING.get(self._mark, "")
        rest = held[begin : begin + len(closing)]
        is_more_to_come = begin + len(rest) == len(held) and not is_last
        if closing and rest == closing:
            if closing == "```" and (is_more_to_come or held[begin + 3 : begin + 4].isalnum()):
                self._is_after_call = is_more_to_come
                return None if is_more_to_come else begin
            self._mark = ""
            return begin + len(closing)
        if rest and closing.startswith(rest) and is_more_to_come:
            return None
        self._is_after_call = begin == len(held)
        return begin

    def _next(self, begin: int, is_last: bool) -> tuple[int | None, list[Call]]:
        """Where what is held can be cut, and the calls that stand before that; None: that is not known yet."""
        if self._other is not None:
            return self._passed(begin, is_last)
        mark = _MARKS.search(self._held, begin)
        end = mark.start() if mark is not None else len(self._held)
        return (end, []) if end > begin else self._judge(begin, is_last)

    def _judge(self, begin: int, is_last: bool) -> tuple[int | None, list[Call]]:
        """The same where a tag, a fence or a bracket begins."""
        opening = _OPENING.match(self._held, begin, partial=not is_last)
        if opening is None:
            return begin + 1, []
        body = opening.end()
        if opening.partial or (body == len(self._held) and not is_last):
            return None, []
        if self._held[body : body + 1] not in ("{", "["):
            return body, []
        head = _HEAD.match(self._held, body, partial=not is_last)
        if head is None:
            return self._no_call(begin, body, is_last)
        if head.partial:
            return None, []
        return self._candidate_at(begin, body, is_last)

    def _candidate_at(self, begin: int, body: int, is_last: bool) -> tuple[int | None, list[Call]]:
        """The same of JSON that begins as a call does."""
        if self._candidate is None:
            self._candidate, self._next_look = _Scan(), _FIRST_LOOK
        end = self._candidate.end(self._held, body)
        if end is None:
            if not is_last and not self._is_given_up(body):
                return None, []
            return self._no_call(begin, body, is_last)
        self._candidate = None
        try:
            value = decoded(self._held[body:end])
        except ValueError:
            return self._no_call(begin, body, is_last)
        calls = [self._functions.call_of(item) for item in (value if isinstance(value, list) else [value])]
        if not calls or None in calls:
            return self._no_call(begin, body, is_last)
        self._mark = self._held[begin] if body > begin else self._mark
        return end, [call for call in calls if call is not None]

    def _is_given_up(self, body: int) -> bool:
        """What is there by now can become no call any more; looked at only when it has doubled."""
        length = len(self._held) - body
        if length < self._next_look:
            return False
        self._next_look = 2 * length
        try:
            value = from_json(self._held[body:].translate(_BLANKS), allow_partial=True)
        except ValueError:
            return True
        return not all(self._may_be_call(item) for item in (value if isinstance(value, list) else [value]))

    def _may_be_call(self, value: Any) -> bool:
        if not isinstance(value, dict) or not KEYS.issuperset(value):
            return False
        inner = value.get("function")
        names = [one[key] for one in (value, inner) if isinstance(one, dict) for key in ("name", "tool") if key in one]
        return all(name in self._functions for name in names)

    def _no_call(self, begin: int, body: int, is_last: bool) -> tuple[int | None, list[Call]]:
        """A tag or a fence is text, and what follows looked at again; a bracket is, up to its other end."""
        self._candidate = None
        if body > begin:
            return body, []
        self._other = _Scan()
        return self._passed(begin, is_last)

    def _passed(self, begin: int, is_last: bool) -> tuple[int | None, list[Call]]:
        """How far other JSON goes: to its end, or to a tag or a fence, as what begins it need not be JSON."""
        assert self._other is not None
        held = self._held
        end = self._other.end(held, begin)
        places = [place for tag in _TAGS if (place := held.find(tag, begin, end)) >= 0]
        if places or end is not None:
            self._other = None
            return min([*places, len(held) if end is None else end]), []
        cut = len(held) if is_last else len(held) - _begun(held[begin:])
        self._other.consumed = 0  # what is passed on is not held any more
        return (cut if cut > begin else None), []


def _begun(text: str) -> int:
    """How many characters at the end of `text` a tag or a fence may begin with."""
    longest = 0
    for tag in _TAGS:
        lengths = [length for length in range(1, len(tag)) if text.endswith(tag[:length])]
        longest = max([longest, *lengths])
    return longest


class ListReader:
    """A JSON list of calls, which the engine made the model write."""

    def __init__(self, functions: Functions):
        self._functions = functions
        self._held = ""
        self._scan = _Scan()

    def feed(self, text: str, is_last: bool = False) -> list[Call | str]:
        """As `Reader.feed`; what is not complete at the end is dropped."""
        self._held += text
        found: list[Call | str] = []
        begin = 0
        while True:
            while begin < len(self._held) and self._held[begin] != "{":
                begin += 1
            if begin == len(self._held) or (end := self._scan.end(self._held, begin)) is None:
                self._held = self._held[begin:]
                return found
            if (call := self._call(self._held[begin:end])) is not None:
                found.append(call)
            begin, self._scan = end, _Scan()

    def _call(self, text: str) -> Call | None:
        try:
            return self._functions.call_of(decoded(text))
        except ValueError:
            return None


class ArgumentsReader:
    """The arguments of one function, which the engine made the model write."""

    def __init__(self, functions: Functions, name: str):
        self._functions = functions
        self._name = name
        self._held = ""
        self._scan: _Scan | None = _Scan()

    def feed(self, text: str, is_last: bool = False) -> list[Call | str]:
        """As `Reader.feed`; what is not complete at the end is dropped."""
        if self._scan is None:
            return []
        self._held = (self._held + text) if self._held else text.lstrip()
        end = self._scan.end(self._held, 0) if self._held else None
        if end is None:
            return []
        self._scan = None
        call = self._functions.checked(self._name, self._held[:end])
        return [call] if call is not None else []


class _Scan:
    """Follows brackets to the one that closes the first, over strings.

    Attributes:
        consumed: how many characters from the first one on were looked at.
    """

    def __init__(self) -> None:
        self.consumed = 0
        self._depth = 0
        self._is_string = False
        self._is_escaped = False

    def end(self, text: str, begin: int) -> int | None:
        """Where the value that begins at `begin` ends; None: not in `text`, which only grows from call to call."""
        for number in range(begin + self.consumed, len(text)):
            character = text[number]
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_string:
                self._is_escaped = character == "\\"
                self._is_string = character != '"'
            elif character == '"':
                self._is_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return number + 1
        self.consumed = max(self.consumed, len(text) - begin)
        return None


def joined(found: list[Call | str]) -> tuple[str, list[Call]]:
    """The text outside of calls, and the calls."""
    text = "".join(item for item in found if isinstance(item, str))
    return text, [item for item in found if isinstance(item, Call)]


def whole(reader: Reader, text: str) -> tuple[str, list[Call]]:
    """The same of an answer that is there in one piece."""
    return joined(reader.feed(text, is_last=True))
