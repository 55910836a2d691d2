# SPDX-License-Identifier: Apache-2.0
"""What the load campaigns share: a request of every kind with a judgement of its answer, and an idle server's signs.

The demo model says its sentences under greedy decoding, so an answer is right or wrong, whichever route gave it.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from serving import demo
from tests.e2e.process import metric

ANSWERS = demo.answers()
QUESTIONS = list(ANSWERS)
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_LONG = {"ignore_eos": True}
_LONG_TGI = {"grammar": {"type": "regex", "value": "[ab]{4000}"}}
"""TGI has no word for going on after the end; a grammar says when it may come."""
_END = "</s>"


@dataclass(frozen=True)
class Kind:
    """One way to ask: a route and a schema, streamed or not."""

    path: str
    schema: str
    stream: bool = False

    def __str__(self) -> str:
        return f"{self.path} {self.schema}{' stream' if self.stream else ''}"

    def body(self, prompt: str, num_tokens: int = 60, **fields: Any) -> dict[str, Any]:
        """The payload; `fields` are parameters."""
        stream = {"stream": True} if self.stream else {}
        if self.schema == "inputs":
            return {"inputs": prompt, "parameters": {"max_new_tokens": num_tokens, **fields}, **stream}
        asked = {"prompt": prompt} if self.schema == "prompt" else {"messages": [{"role": "user", "content": prompt}]}
        return {**asked, "max_tokens": num_tokens, **fields, **stream}

    def long_body(self) -> dict[str, Any]:
        """A payload that keeps the engine busy for many seconds."""
        return self.body("Tell", 1900, **(_LONG if self.path not in _TGI else _LONG_TGI))


_TGI = ("/", "/generate", "/generate_stream")
KINDS = [
    Kind("/invocations", "inputs"),
    Kind("/invocations", "inputs", stream=True),
    Kind("/predictions/demo", "messages"),
    Kind("/predictions/demo", "messages", stream=True),
    Kind("/", "inputs"),
    Kind("/generate", "inputs"),
    Kind("/generate_stream", "inputs", stream=True),
    Kind("/v1/completions", "prompt"),
    Kind("/v1/completions", "prompt", stream=True),
    Kind("/v1/chat/completions", "messages", stream=True),
]
STREAMS = [kind for kind in KINDS if kind.stream]


def objects(text: str) -> list[Any]:
    """The JSON values of an answer: one, its lines or its events."""
    lines = [line.removeprefix("data:").strip() for line in text.split("\n")]
    return [json.loads(line) for line in lines if line not in ("", "[DONE]")]


def _pieces(values: list[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, list):
            yield from _pieces(value)
        elif "token" in value:
            yield value["token"]["text"]
        elif "generated_text" in value:
            yield value["generated_text"]
        else:
            (choice,) = value["choices"]
            said: Mapping[str, str] = (
                choice.get("delta") or choice.get("message") or {"content": choice.get("text", "")}
            )
            yield said.get("content") or ""


def said(text: str) -> str:
    """What an answer says, whole or streamed, on whichever route."""
    return "".join(_pieces(objects(text))).removesuffix(_END)


def verdict(question: str, status: int, text: str) -> str:
    """`right`, or what is wrong with the answer."""
    if status != 200:
        return f"{status} {text}"
    try:
        return "right" if said(text) == ANSWERS[question] else f"{question} {text}"
    except (KeyError, ValueError):
        return f"{question} {text}"


def num_in_flight(url: str, model: str = "demo") -> int:
    """Requests that the gate has let in and not let go."""
    return int(httpx.get(f"{url}/models/{model}").json()[0]["models"][0]["requestInQueue"])


def unfinished(url: str) -> dict[str, float]:
    """What the engine and the gate still have to do; empty when they are idle."""
    counts = {RUNNING: metric(url, RUNNING), WAITING: metric(url, WAITING), "in flight": num_in_flight(url)}
    return {name: count for name, count in counts.items() if count}


def check_settled(url: str, timeout_s: float = 2) -> None:
    """Nothing is unfinished a moment after the last client left."""
    deadline = time.monotonic() + timeout_s
    while left := unfinished(url):
        assert time.monotonic() < deadline, f"unfinished after {timeout_s} s: {left}"
        time.sleep(0.05)


def wait_until_in_flight(url: str, count: int, timeout_s: float = 60) -> None:
    """Polls until the gate holds `count` requests."""
    deadline = time.monotonic() + timeout_s
    while (seen := num_in_flight(url)) != count:
        assert time.monotonic() < deadline, f"{seen} in flight, not {count}, after {timeout_s} s"
        time.sleep(0.05)
