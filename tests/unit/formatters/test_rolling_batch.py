# SPDX-License-Identifier: Apache-2.0
"""Rolling batch's objects and lines, byte for byte where clients could mind."""

import json

import pytest

from serving.formatters.rolling_batch import RollingBatchFormatter
from serving.schemas.generation import GenerationChunk, GenerationRequest, LmiRequest, Token

pytestmark = pytest.mark.pure
A, B = Token(1, "a", -0.5), Token(2, "b", float("-inf"))


def request(**shown: object) -> LmiRequest:
    return LmiRequest([GenerationRequest("p", {}, stream=True)], **shown)  # type: ignore[arg-type]


def whole(asked: LmiRequest, chunk: GenerationChunk) -> dict[str, object]:
    data = RollingBatchFormatter().whole(asked, [[chunk]])
    assert not data.endswith(b"\n")
    answer: dict[str, object] = json.loads(data)
    return answer


def test_text_alone() -> None:
    chunk = GenerationChunk(0, "ä", [], 1, "length")
    assert RollingBatchFormatter().whole(request(), [[chunk]]) == '{"generated_text": "ä"}'.encode()
    assert whole(request(return_full_text=True), chunk) == {"generated_text": "pä"}


def test_details() -> None:
    chunk = GenerationChunk(0, "ab", [A, B], 2, "stop", prompt_tokens=[Token(9, "p", None)], top_tokens=[[A], [B, A]])
    answer = whole(request(details=True, top_n_tokens=2), chunk)
    assert list(answer) == ["generated_text", "details"]
    assert answer["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 2,
        "inputs": "p",
        "tokens": [{"id": 1, "text": "a", "log_prob": -0.5}, {"id": 2, "text": "b", "log_prob": -9999.0}],
        "prefill": [{"id": 9, "text": "p", "log_prob": None}],
        "top_tokens": [
            [{"id": 1, "text": "a", "log_prob": -0.5}],
            [{"id": 2, "text": "b", "log_prob": -9999.0}, {"id": 1, "text": "a", "log_prob": -0.5}],
        ],
    }


def test_stream() -> None:
    stream = RollingBatchFormatter().stream(request(details=True))
    assert stream.step(GenerationChunk(0, "", [], 0)) == b""
    assert (
        stream.step(GenerationChunk(0, "a", [A, A], 2)) == b'{"token": {"id": 1, "text": "a", "log_prob": -0.5}}\n' * 2
    )
    last = json.loads(stream.step(GenerationChunk(0, "b", [B], 1, "length")))
    assert last == {
        "token": {"id": 2, "text": "b", "log_prob": -9999.0},
        "generated_text": "ab",
        "details": {"finish_reason": "length", "generated_tokens": 3, "inputs": "p"},
    }


def test_stream_that_ends_between_two_tokens() -> None:
    stream = RollingBatchFormatter().stream(request())
    stream.step(GenerationChunk(0, "a", [A], 1))
    assert json.loads(stream.step(GenerationChunk(0, "", [], 0, "abort"))) == {"generated_text": "a"}
