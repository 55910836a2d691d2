# SPDX-License-Identifier: Apache-2.0
"""TGI's objects and events, and how a text is split over its tokens."""

import json

import pytest

from serving.formatters.base import pieces
from serving.formatters.tgi import TgiFormatter
from serving.schemas.generation import GenerationChunk, GenerationRequest, LmiRequest, Token

pytestmark = pytest.mark.pure
A, END = Token(1, "a", -0.5), Token(2, "</s>", -0.1, is_special=True)


def request(**shown: object) -> LmiRequest:
    return LmiRequest([GenerationRequest("p", {}, stream=True)], **shown)  # type: ignore[arg-type]


def test_whole() -> None:
    chunk = GenerationChunk(0, "a", [A, END], 2, "stop", prompt_tokens=[Token(9, "p", None)])
    assert json.loads(TgiFormatter().whole(request(), [[chunk]])) == {"generated_text": "a"}
    assert json.loads(TgiFormatter(in_list=True).whole(request(return_full_text=True), [[chunk]])) == [
        {"generated_text": "pa"}
    ]
    assert json.loads(TgiFormatter().whole(request(details=True, seed=3), [[chunk]]))["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 2,
        "seed": 3,
        "prefill": [{"id": 9, "text": "p", "logprob": None}],
        "tokens": [
            {"id": 1, "text": "a", "logprob": -0.5, "special": False},
            {"id": 2, "text": "</s>", "logprob": -0.1, "special": True},
        ],
    }


def test_several_sequences() -> None:
    first, second = GenerationChunk(0, "a", [A], 1, "length"), GenerationChunk(1, "b", [A], 1, "length")
    details = json.loads(TgiFormatter().whole(request(details=True), [[first, second]]))["details"]
    assert [one["generated_text"] for one in details["best_of_sequences"]] == ["b"]


def test_stream() -> None:
    stream = TgiFormatter().stream(request(top_n_tokens=1))
    first = GenerationChunk(0, "aa", [A, A], 2, top_tokens=[[A], [A]])
    last = GenerationChunk(0, "", [END], 1, "stop", num_prompt_tokens=4, top_tokens=[[END]])
    text = (stream.step(first) + stream.step(last)).decode()
    assert text.endswith("\n\n")
    events = [json.loads(event.removeprefix("data:")) for event in text.strip().split("\n\n")]
    assert [event["index"] for event in events] == [1, 2, 3]
    assert [event["token"]["text"] for event in events] == ["a", "a", "</s>"]
    assert [event["generated_text"] for event in events] == [None, None, "aa"]
    assert events[0]["top_tokens"] == [{"id": 1, "text": "a", "logprob": -0.5, "special": False}]
    assert events[-1]["details"] == {
        "finish_reason": "eos_token", "generated_tokens": 3, "input_length": 4, "seed": None
    }  # fmt: skip


@pytest.mark.parametrize("top_n_tokens", [0, 2])
def test_stream_that_ends_between_two_tokens(top_n_tokens: int) -> None:
    stream = TgiFormatter().stream(request(top_n_tokens=top_n_tokens))
    stream.step(GenerationChunk(0, "a", [A], 1, top_tokens=[[A]]))
    event = json.loads(stream.step(GenerationChunk(0, "", [], 0, "abort")).removeprefix(b"data:"))
    assert (event["generated_text"], event["details"]["generated_tokens"]) == ("a", 1)


@pytest.mark.parametrize(
    ("text", "tokens", "parts"),
    [
        ("ab", ["a", "b"], ["a", "b"]),
        ("é", ["", "é"], ["", "é"]),
        ("é!", ["", "", "!"], ["", "é", "!"]),
        ("aé!", ["a", "\N{REPLACEMENT CHARACTER}", "!"], ["a", "é", "!"]),
        ("a", ["a", "stop"], ["a", ""]),
        ("whole", ["x"], ["whole"]),
        ("rest", ["", ""], ["", "rest"]),
        ("", ["a", "b"], ["", ""]),
    ],
)
def test_pieces(text: str, tokens: list[str], parts: list[str]) -> None:
    assert pieces(text, [Token(0, token, None) for token in tokens]) == parts
