# SPDX-License-Identifier: Apache-2.0
"""A load of many clients at once, on one route, that costs little itself: plain sockets, and a clock per read.

`serving.py` runs it as a program of its own, so that its work is not the server's. The public load generators speak
OpenAI's routes only; here the same client asks LMI's, TGI's and OpenAI's.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

_CHUNKED_END = b"0\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
WORDS = "words that stand for a prompt "


@dataclass(frozen=True)
class Route:
    """How one route is asked for `num_tokens` tokens.

    Attributes:
        path: of the route.
        body: of a request, from the prompt, how many tokens to make, and whether to stream.
    """

    path: str
    body: Any


def _lmi(prompt: str, num_tokens: int, stream: bool) -> dict[str, Any]:
    parameters = {"max_new_tokens": num_tokens, "ignore_eos": True}
    return {"inputs": prompt, "parameters": parameters, **({"stream": True} if stream else {})}


def _tgi(prompt: str, num_tokens: int, stream: bool) -> dict[str, Any]:
    return {"inputs": prompt, "parameters": {"max_new_tokens": num_tokens, "ignore_eos": True}, "stream": stream}


def _completion(logprobs: int | None) -> Any:
    def body(prompt: str, num_tokens: int, stream: bool) -> dict[str, Any]:
        asked = {"prompt": prompt, "max_tokens": num_tokens, "ignore_eos": True, "stream": stream}
        return asked if logprobs is None else {**asked, "logprobs": logprobs}

    return body


def _chat(prompt: str, num_tokens: int, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"messages": messages, "max_tokens": num_tokens, "ignore_eos": True, "stream": stream}


ROUTES = {
    "lmi": Route("/invocations", _lmi),
    "tgi": Route("/", _tgi),
    "completions": Route("/v1/completions", _completion(None)),
    "completions-logprobs": Route("/v1/completions", _completion(1)),
    "chat": Route("/v1/chat/completions", _chat),
}


@dataclass
class Seen:
    """What the clients saw; times in seconds.

    Attributes:
        num_bytes: of all answers.
        firsts: from a request to the first piece of its body.
        gaps: between two pieces of one body.
        totals: from a request to its end.
    """

    num_bytes: int = 0
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)


class Client(asyncio.Protocol):
    """Asks one request after another on one connection."""

    def __init__(self, request: bytes, count: int, seen: Seen, done: asyncio.Future[None]):
        self._request = request
        self._left = count
        self._seen = seen
        self._done = done

    def connection_made(self, transport: Any) -> None:
        """Asks for the first time."""
        self._transport = transport
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Too early, if anything is left to ask."""
        if not self._done.done():
            self._done.set_exception(ConnectionError(f"closed with {self._left} requests to go: {error}"))

    def _ask(self) -> None:
        self._head: bytes | None = b""
        self._tail = b""
        self._length: int | None = None
        self._num_read = 0
        self._asked_at = self._last_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Notes when a piece came, and asks again at the end of an answer."""
        now = time.perf_counter()
        self._seen.num_bytes += len(data)
        if self._head is not None:
            self._head += data
            head, found, data = self._head.partition(_HEAD_END)
            if not found:
                return
            self._begin(head)
            if not data:
                return
        if self._num_read == 0:
            self._seen.firsts.append(now - self._asked_at)
        elif data != _CHUNKED_END:
            self._seen.gaps.append(now - self._last_at)
        self._last_at = now
        self._num_read += len(data)
        self._tail = (self._tail + data)[-len(_CHUNKED_END) :]
        if self._num_read == self._length or (self._length is None and self._tail == _CHUNKED_END):
            self._end(now)

    def _begin(self, head: bytes) -> None:
        status, *lines = head.decode("latin-1").split("\r\n")
        if " 200 " not in status:
            self._done.set_exception(ValueError(f"{status}: an answer was refused"))
            self._transport.abort()
            return
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._length = int(headers["content-length"]) if "content-length" in headers else None
        self._head = None

    def _end(self, now: float) -> None:
        self._seen.totals.append(now - self._asked_at)
        self._left -= 1
        if self._left:
            self._ask()
        else:
            self._done.set_result(None)
            self._transport.close()


async def run(
    port: int,
    route: str,
    num_clients: int,
    num_requests: int,
    num_tokens: int,
    num_words: int,
    stream: bool,
    spread_s: float = 0.0,
) -> dict[str, Any]:
    """What `num_clients` clients saw, each of which asks `num_requests` times in a row.

    They begin within `spread_s`, and so do not ask all at the same moment later on either.
    """
    prompt = (WORDS * (num_words // 6 + 1)).rsplit(" ", 1)[0]
    body = json.dumps(ROUTES[route].body(prompt, num_tokens, stream)).encode()
    head = f"POST {ROUTES[route].path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    seen, done = Seen(), [loop.create_future() for _ in range(num_clients)]
    began = time.perf_counter()
    for one in done:
        await loop.create_connection(lambda one=one: Client(request, num_requests, seen, one), "127.0.0.1", port)
        await asyncio.sleep(spread_s / num_clients)
    await asyncio.gather(*done)
    seconds = time.perf_counter() - began
    made = num_clients * num_requests
    return {
        "seconds": seconds,
        "requests_per_s": made / seconds,
        "tokens_per_s": made * num_tokens / seconds,
        "num_tokens": made * num_tokens,
        "bytes_per_token": seen.num_bytes / (made * num_tokens),
        "pieces_per_request": (len(seen.gaps) + len(seen.firsts)) / made,
        "first_ms": spread(seen.firsts),
        "gap_ms": spread(seen.gaps),
        "total_ms": spread(seen.totals),
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds."""
    if len(seconds) < 2:
        return {"p50": 1000 * (seconds[0] if seconds else 0.0), "p99": 1000 * (seconds[0] if seconds else 0.0)}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": 1000 * cuts[49], "p99": 1000 * cuts[98]}


def main() -> None:
    """Prints what was seen, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--route", choices=ROUTES, required=True)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=1, help="that each client sends, one after another")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--words", type=int, default=12, help="of the prompt")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--spread", type=float, default=0.0, help="seconds within which the clients begin")
    given = parser.parse_args()
    seen = run(
        given.port, given.route, given.clients, given.requests, given.tokens, given.words, given.stream, given.spread
    )
    print(json.dumps(uvloop.run(seen)))


if __name__ == "__main__":
    main()
