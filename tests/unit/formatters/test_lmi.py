# SPDX-License-Identifier: Apache-2.0
"""LMI's answers, byte for byte: one object, a list of them, or one line per token."""

import json
from typing import Any

import pytest

from serving.formatters.lmi import LmiFormatter
from serving.schemas.generation import GenerationChunk, GenerationRequest, LmiRequest, Token

pytestmark = pytest.mark.pure


def request(prompt: str | list[int] = "hi", n: int = 1, **shown: Any) -> LmiRequest:
    """A request for one prompt."""
    return LmiRequest([GenerationRequest(prompt, {"n": n}, stream=True)], **shown)


def chunk(text: str, *tokens: Token, **values: Any) -> GenerationChunk:
    """One chunk of choice 0 with these tokens."""
    return GenerationChunk(**{"index": 0, "text": text, "tokens": list(tokens), "num_tokens": len(tokens)} | values)


def lines(request: LmiRequest, *chunks: GenerationChunk) -> list[bytes]:
    """What each chunk adds to the stream."""
    formatter = LmiFormatter().stream(request)
    return [formatter.step(one) for one in chunks]


class TestWhole:
    """Answers that are not streamed."""

    def test_text_alone(self) -> None:
        body = LmiFormatter().whole(request(), [[chunk('é"\n', Token(1, "x", -1.0), finish_reason="stop")]])
        assert body == '{"generated_text": "é\\"\\n"}\n'.encode()

    def test_full_text_starts_with_the_prompt(self) -> None:
        body = LmiFormatter().whole(request(return_full_text=True), [[chunk(" you", finish_reason="stop")]])
        assert json.loads(body) == {"generated_text": "hi you"}

    def test_full_text_of_a_token_prompt_is_the_answer(self) -> None:
        body = LmiFormatter().whole(request([1, 2], return_full_text=True), [[chunk(" you", finish_reason="stop")]])
        assert json.loads(body) == {"generated_text": " you"}

    def test_batch_is_a_list_in_order(self) -> None:
        batch = LmiRequest([GenerationRequest(text, {}) for text in "ab"], is_batch=True, return_full_text=True)
        assert LmiFormatter().whole(batch, [[chunk("1")], [chunk("2")]]) == (
            b'[{"generated_text": "a1"}, {"generated_text": "b2"}]\n'
        )

    def test_details(self) -> None:
        tokens = [Token(7, "a", -0.5), Token(8, "", float("-inf"))]
        answer = chunk("a", *tokens, finish_reason="length", prompt_tokens=[Token(3, "h", None), Token(4, "i", -2.0)])
        body = LmiFormatter().whole(request(details=True, seed=5), [[answer]])
        assert json.loads(body) == {
            "generated_text": "a",
            "details": {
                "finish_reason": "length",
                "stop_reason": None,
                "generated_tokens": 2,
                "seed": 5,
                "prefill": [{"id": 3, "text": "h", "logprob": None}, {"id": 4, "text": "i", "logprob": -2.0}],
                "tokens": [{"id": 7, "text": "a", "logprob": -0.5}, {"id": 8, "text": "", "logprob": -9999.0}],
            },
        }

    def test_top_tokens(self) -> None:
        answer = chunk("a", Token(7, "a", -0.5), top_tokens=[[Token(7, "a", -0.5), Token(9, "b", -1.5)]])
        body = LmiFormatter().whole(request(details=True, top_n_tokens=2), [[answer]])
        assert json.loads(body)["details"]["top_tokens"] == [
            [{"id": 7, "text": "a", "logprob": -0.5}, {"id": 9, "text": "b", "logprob": -1.5}]
        ]

    @pytest.mark.parametrize(
        ("finish_reason", "stop_reason", "word"),
        [
            ("length", None, "length"),
            ("stop", None, "eos_token"),
            ("stop", "END", "stop_sequence"),
            ("stop", 367, "stop_sequence"),
            ("abort", None, "abort"),
            ("repetition", None, "repetition"),
        ],
    )
    def test_why_it_ended(self, finish_reason: str, stop_reason: str | int | None, word: str) -> None:
        answer = chunk("a", finish_reason=finish_reason, stop_reason=stop_reason)
        details = json.loads(LmiFormatter().whole(request(details=True), [[answer]]))["details"]
        assert (details["finish_reason"], details["stop_reason"]) == (word, stop_reason)


class TestStream:
    """Answers that are streamed."""

    def test_lines(self) -> None:
        first, last = chunk("é", Token(1, "é", -0.25)), chunk('"', Token(2, '"', -1e-05), finish_reason="length")
        assert lines(request(), first, last) == [
            '{"index": 0, "token": {"id": 1, "text": "é", "logprob": -0.25}, "generated_text": null, '
            '"details": null}\n'.encode(),
            '{"index": 0, "token": {"id": 2, "text": "\\"", "logprob": -1e-05}, "generated_text": "é\\"", '
            '"details": null}\n\n\n'.encode(),
        ]

    def test_details_stand_on_the_last_line(self) -> None:
        last = chunk("b", Token(2, "b", None), finish_reason="stop", stop_reason="b", num_prompt_tokens=3)
        written = lines(request(details=True, seed=1), chunk("a", Token(1, "a", -1.0)), last)
        assert json.loads(written[0])["details"] is None
        assert json.loads(written[1]) == {
            "index": 0,
            "token": {"id": 2, "text": "b", "logprob": None},
            "generated_text": "ab",
            "details": {
                "finish_reason": "stop_sequence",
                "stop_reason": "b",
                "seed": 1,
                "generated_tokens": 2,
                "input_length": 3,
            },
        }

    @pytest.mark.parametrize(
        ("text", "tokens", "pieces"),
        [
            ("abc", ["a", "b", "c"], ["a", "b", "c"]),
            # Text lags behind its tokens: a stop string may begin, or a character is incomplete.
            ("ab", ["a", "b", "c"], ["a", "b", ""]),
            ("xa", ["a", "b"], ["", "xa"]),
            ("é", ["", "é"], ["", "é"]),
            ("", ["a", "b"], ["", ""]),
            ("lagging", ["x"], ["lagging"]),
        ],
    )
    def test_one_step_with_several_tokens_is_one_write(self, text: str, tokens: list[str], pieces: list[str]) -> None:
        step = chunk(text, *(Token(number, token, -1.0) for number, token in enumerate(tokens)), finish_reason="length")
        (written,) = lines(request(), step)
        objects = [json.loads(line) for line in written.splitlines() if line]
        assert [line["token"]["text"] for line in objects] == pieces
        assert "".join(pieces) == text
        assert [line["token"]["id"] for line in objects] == list(range(len(tokens)))
        assert [line["generated_text"] for line in objects] == [None] * (len(tokens) - 1) + [text]

    def test_full_text_starts_with_the_prompt_on_the_last_line_only(self) -> None:
        (written,) = lines(request(return_full_text=True), chunk("a", Token(1, "a", -1.0), finish_reason="stop"))
        line = json.loads(written)
        assert (line["token"]["text"], line["generated_text"]) == ("a", "hia")

    def test_choices_keep_their_own_text_and_the_stream_ends_once(self) -> None:
        steps = [
            chunk(text, Token(1, text, -1.0), index=index, finish_reason=finish)
            for index, text, finish in [(0, "a", None), (1, "x", None), (0, "b", "stop"), (1, "y", "length")]
        ]
        written = lines(request(n=2, return_full_text=True), *steps)
        texts = [(json.loads(line)["index"], json.loads(line)["generated_text"]) for line in written]
        assert texts == [(0, None), (1, None), (0, "hiab"), (1, "hixy")]
        assert [line.endswith(b"\n\n\n") for line in written] == [False, False, False, True]

    def test_impossible_token_has_a_number_for_its_logprob(self) -> None:
        (written,) = lines(request(), chunk("a", Token(1, "a", float("-inf")), finish_reason="stop"))
        assert json.loads(written)["token"]["logprob"] == -9999.0

    def test_end_without_a_token_still_tells_the_text_and_the_reason(self) -> None:
        steps = [chunk("a", Token(1, "a", -1.0)), chunk("b", finish_reason="abort")]
        line = json.loads(lines(request(details=True), *steps)[1])
        assert line["token"] == {"id": -1, "text": "b", "logprob": None}
        assert (line["generated_text"], line["details"]["finish_reason"]) == ("ab", "abort")

    def test_step_without_tokens_says_nothing(self) -> None:
        assert lines(request(), chunk("")) == [b""]
