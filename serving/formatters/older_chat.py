# SPDX-License-Identifier: Apache-2.0
"""LMI's older chat objects, as its rolling batch answers: made of vLLM's own, which know tools and reasoning.

Fewer keys, one choice, LMI's finish words, no line of its own for the role. Streamed as events with `[DONE]`, or as
lines.
"""

import json
from collections.abc import AsyncGenerator, Container, Mapping
from contextlib import aclosing
from typing import Any

from serving.formatters.base import EVENTS, JSON, JSON_LINES, Framing
from serving.schemas.parameters import flag

MEDIA_TYPES: Mapping[str, str] = {"json_chat": JSON, "jsonlines_chat": JSON_LINES, "sse_chat": EVENTS}
FRAMINGS: Mapping[str, Framing] = {"jsonlines_chat": "lines", "sse_chat": "events"}
_WORDS = {"stop": "eos_token"}
_ERROR = b'{"error"'


def request(body: Mapping[str, Any], formatter: str | None, most_tokens: int) -> tuple[dict[str, Any], str]:
    """The body for vLLM, and the name of the format of its answer.

    Args:
        body: as the client sent it. `max_tokens` wins over `max_completion_tokens`, and 0 means unset.
        formatter: the server's `output_formatter`; only the names of chat formats have a meaning here.
        most_tokens: the model's context; a larger limit means as much as fits.
    """
    body = {name: value for name, value in body.items() if name not in ("stream_options", "n")}
    by_stream = "sse_chat" if flag(body, "stream") else "json_chat"
    form = formatter if formatter is not None and formatter in MEDIA_TYPES else by_stream
    body["stream"] = form != "json_chat"
    limit = body.pop("max_tokens", None) or body.get("max_completion_tokens")
    body.pop("max_completion_tokens", None)
    if limit:
        body["max_tokens"] = min(limit, most_tokens) if isinstance(limit, int) else limit
    return body, form


def whole(answer: bytes, stop_ids: Container[int] = ()) -> bytes:
    """The older object for one of vLLM's; `stop_ids` are the tokens that the request itself stops at."""
    made = json.loads(answer)
    (choice,) = made["choices"]
    message = {name: choice["message"].get(name) for name in ("role", "content")}
    body = {
        "id": made["id"],
        "object": made["object"],
        "created": made["created"],
        "choices": [{
            "index": 0,
            "message": {**message, **_kept(choice["message"])},
            "logprobs": None,
            "finish_reason": _word(choice, stop_ids),
        }],
        "usage": {name: made["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
    }  # fmt: skip
    return json.dumps(body, ensure_ascii=False).encode()


async def stream(
    objects: AsyncGenerator[bytes], framing: Framing, stop_ids: Container[int] = ()
) -> AsyncGenerator[bytes]:
    """The older objects for a stream of vLLM's; the role stands on the first one that says something."""
    before, behind = (b"data: ", b"\n\n") if framing == "events" else (b"", b"\n")
    role: dict[str, str] = {}
    async with aclosing(objects):
        async for data in objects:
            made = {} if data.startswith(_ERROR) else json.loads(data)
            if not made:
                yield before + data + behind
                return
            if not made["choices"]:
                continue
            choice = made["choices"][0]
            delta = choice["delta"]
            role |= {"role": delta["role"]} if delta.get("role") else {}
            if not delta.get("content") and not _kept(delta) and choice["finish_reason"] is None:
                continue
            delta = {"content": delta.get("content") or "", **role, **_kept(delta)}
            role = {}
            body = {
                "id": made["id"],
                "object": made["object"],
                "created": made["created"],
                "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": _word(choice, stop_ids)}],
            }
            yield before + json.dumps(body, ensure_ascii=False).encode() + behind
        if framing == "events":
            yield b"data: [DONE]\n\n"


def _word(choice: Mapping[str, Any], stop_ids: Container[int]) -> str | None:
    """LMI's word for why the choice ended; a token that the request does not stop at is one of the model's ends."""
    reason: str | None = choice["finish_reason"]
    stop = choice.get("stop_reason")
    if reason == "stop" and (isinstance(stop, str) or stop in stop_ids):
        return "stop_sequence"
    return _WORDS.get(reason, reason) if reason is not None else None


def _kept(message: Mapping[str, Any]) -> dict[str, Any]:
    """Calls of tools and reasoning, where there are any; LMI's name for reasoning beside vLLM's."""
    kept = {"tool_calls": message["tool_calls"]} if message.get("tool_calls") else {}
    if message.get("reasoning"):
        kept |= {"reasoning": message["reasoning"], "reasoning_content": message["reasoning"]}
    return kept
