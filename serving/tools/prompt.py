# SPDX-License-Identifier: Apache-2.0
"""Tells a model of functions, of calls and of results in plain words, where its chat template cannot."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from serving.tools.functions import decoded

_ABOUT = """You can call these functions:
{functions}
To call one, answer with nothing but
<tool_call>{{"name": "FUNCTION", "arguments": {{...}}}}</tool_call>
with arguments that fit its parameters; several calls, one after the other. Otherwise answer in plain words."""


def knows_tools(template: str) -> bool:
    """A chat template shows the functions of a request."""
    return re.search(r"\btools\b", template) is not None


def knows_calls(template: str) -> bool:
    """A chat template shows calls of functions in what was said before."""
    return re.search(r"\btool_calls\b", template) is not None


def takes_system(template: str) -> bool:
    """A chat template has a place for what the system says; some raise an error where it speaks."""
    return "system" in template and "not supported" not in template


def with_functions(messages: Sequence[Any], tools: Sequence[Mapping[str, Any]], takes_system: bool) -> list[Any]:
    """The messages with what there is to call at the end of the system's, which is made where there is none.

    Args:
        messages: of a chat.
        tools: of the request, in OpenAI's form.
        takes_system: else the first message of the user's says it.
    """
    functions = "\n".join(json.dumps(_described(tool), ensure_ascii=False) for tool in tools)
    about = _ABOUT.format(functions=functions)
    if messages and _get(messages[0], "role") in ("system", "developer"):
        first = messages[0]
        return [{**_fields(first), "content": _text_and(_get(first, "content"), about)}, *messages[1:]]
    if takes_system:
        return [{"role": "system", "content": about}, *messages]
    for number, message in enumerate(messages):
        if _get(message, "role") == "user":
            told = {**_fields(message), "content": _text_before(f"{about}\n", _get(message, "content"))}
            return [*messages[:number], told, *messages[number + 1 :]]
    return [{"role": "user", "content": about}, *messages]


def with_calls_as_text(messages: Sequence[Any]) -> list[Any]:
    """The messages with calls and results as the text that `with_functions` asks for."""
    names: dict[str, str] = {}
    rewritten: list[Any] = []
    is_after_result = False
    for message in messages:
        role, calls = _get(message, "role"), _get(message, "tool_calls")
        if role == "assistant" and calls:
            texts = []
            for call in calls:
                function = _fields(_get(call, "function") or {})
                names[str(_get(call, "id"))] = str(function.get("name"))
                texts.append(_call_text(str(function.get("name")), function.get("arguments")))
            content = _text_and(_get(message, "content"), "\n".join(texts))
            others = {key: value for key, value in _fields(message).items() if key != "tool_calls"}
            rewritten.append({**others, "content": content})
        elif role in ("tool", "function"):
            name = _get(message, "name") or names.get(str(_get(message, "tool_call_id")), "the function")
            content = _text_before(f"{name} returned:", _get(message, "content"))
            if isinstance(content, str) and is_after_result:  # many templates want user and assistant in turn
                rewritten[-1] = {**rewritten[-1], "content": f"{rewritten[-1]['content']}\n\n{content}"}
            else:
                rewritten.append({"role": "user", "content": content})
            is_after_result = isinstance(content, str)
            continue
        else:
            rewritten.append(message)
        is_after_result = False
    return rewritten


def _described(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function", tool)
    shown = {key: function.get(key) for key in ("name", "description", "parameters")}
    return {key: value for key, value in shown.items() if value is not None}


def _call_text(name: str, arguments: Any) -> str:
    if isinstance(arguments, str):
        with suppress(ValueError):  # it stays as the client wrote it
            arguments = decoded(arguments or "{}")
    body = json.dumps({"name": name, "arguments": arguments or {}}, ensure_ascii=False)
    return f"<tool_call>{body}</tool_call>"


def _text_and(content: Any, text: str) -> Any:
    """A message's content and a text below it."""
    if isinstance(content, list):
        return [*content, {"type": "text", "text": text}]
    return f"{content}\n\n{text}" if content else text


def _text_before(text: str, content: Any) -> Any:
    if isinstance(content, list):
        return [{"type": "text", "text": text}, *content]
    return f"{text}\n{content if content is not None else ''}"


def _get(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, Mapping) else getattr(item, key, None)


def _fields(item: Any) -> dict[str, Any]:
    return dict(item) if isinstance(item, Mapping) else item.model_dump(exclude_none=True)
