# SPDX-License-Identifier: Apache-2.0
"""LMI's rolling-batch formats, and a request that is written with them token by token."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from djl_python import output_formatter as formats
from djl_python.output_formatter import adapt_legacy_output_formatter, get_output_formatter, sse_response_formatter
from djl_python.request import Request
from djl_python.request_io import RequestOutput, TextGenerationOutput, TextInput, Token

pytestmark = pytest.mark.pure

TOKENS = [("I", -0.5), (" \N{EURO SIGN}", -1.5)]


def request(form: Any = None, prompt: Any = "Who?", tgi: bool = False, **parameters: Any) -> Request:
    return Request(TextInput(7, output_formatter=form, parameters=parameters, tgi_compat=tgi, input_text=prompt))


def written(made: Request, tokens: list[tuple[str, float]] = TOKENS) -> list[str]:
    """What a request writes after each of its tokens."""
    steps = []
    for index, (text, log_prob) in enumerate(tokens):
        is_last = index == len(tokens) - 1
        made.set_next_token(Token(index, text, log_prob), is_last, "length" if is_last else None)
        steps.append(made.get_next_token())
        made.reset_next_token()
    return steps


def test_json() -> None:
    made = request()
    assert made.get_content_type() == "application/json"
    assert written(made) == ["", '{"generated_text": "I €"}']
    assert made.is_last_token()
    assert made.get_next_token() == ""


def test_json_with_everything() -> None:
    made = request(details=True, decoder_input_details=True, top_n_tokens=1, return_full_text=True)
    made.request_output.prompt_tokens_details = [Token(9, "Who?")]
    made.request_output.set_next_top_tokens([Token(0, "I", -0.5)])
    assert written(made)[-1] == (
        '{"generated_text": "Who?I €", "details": {"finish_reason": "length", "generated_tokens": 2, "inputs": "Who?",'
        ' "tokens": [{"id": 0, "text": "I", "log_prob": -0.5}, {"id": 1, "text": " €", "log_prob": -1.5}],'
        ' "prefill": [{"id": 9, "text": "Who?", "log_prob": null}],'
        ' "top_tokens": [[{"id": 0, "text": "I", "log_prob": -0.5}]]}}'
    )


def test_json_as_tgi_has_it() -> None:
    (answer,) = json.loads(written(request(tgi=True))[-1])
    assert answer["details"]["tokens"][0] == {"id": 0, "text": "I", "logprob": -0.5}
    assert written(request(tgi=True, details=False))[-1] == '[{"generated_text": "I €"}]'


def test_an_answer_of_one_token() -> None:
    only = [("I", -0.5)]
    assert written(request(), only) == ['{"generated_text": "I"}']
    assert written(request(stream=True), only) == [
        '{"token": {"id": 0, "text": "I", "log_prob": -0.5}, "generated_text": "I"}\n'
    ]


def test_a_whole_answer_reads_one_token_a_step() -> None:
    made = request()
    for index in range(2):
        made.request_output.set_next_token(Token(index, "x"), is_last_token=index == 1)
    assert [made.get_next_token(), made.get_next_token()] == ["", '{"generated_text": "xx"}']


def test_a_stream_writes_all_tokens_of_a_step() -> None:
    made = request("jsonlines")
    for index in range(2):
        made.set_next_token(Token(index, "x"), index == 1)
    first, last = made.get_next_token().splitlines()
    assert (json.loads(first)["token"]["id"], json.loads(last)["generated_text"]) == (0, "xx")
    assert made.get_next_token() == f"{first}\n{last}\n"


def test_details_of_a_stream_have_no_tokens() -> None:
    last = json.loads(written(request(stream=True, details=True))[-1])
    assert last["details"] == {"finish_reason": "length", "generated_tokens": 2, "inputs": "Who?"}


def test_events() -> None:
    made = request("sse")
    assert made.get_content_type() == "text/event-stream"
    first, last = written(made)
    assert first == 'data: {"token": {"id": 0, "text": "I", "log_prob": -0.5}}\n\n'
    assert last.startswith("data: {")
    assert last.endswith('"generated_text": "I €"}\n\n')


def test_only_line_feeds_separate_events() -> None:
    in_events = sse_response_formatter(lambda output: "a\N{LINE SEPARATOR}b\n\nc\n")
    assert in_events(request().request_output) == "data: a\N{LINE SEPARATOR}b\n\ndata: c\n\n"


def test_several_sequences_are_written_when_all_are_there() -> None:
    made = request(best_of=2, details=False)
    output = made.request_output
    for index, text in enumerate("ab"):
        output.set_next_token(Token(index, text), index, is_last_token=index == 1, finish_reason=f"why{index}")
    assert made.get_next_token() == ""
    output.set_best_sequence_index(1)
    output.other_sequences_indices = [0]
    output.finished = True
    assert json.loads(made.get_next_token()) == {
        "generated_text": "b",
        "details": {
            "inputs": "Who?",
            "finish_reason": "why1",
            "generated_tokens": 1,
            "tokens": [{"id": 1, "text": "b", "log_prob": None}],
            "best_of_sequences": [
                {
                    "finish_reason": "why0",
                    "generated_tokens": 1,
                    "tokens": [{"id": 0, "text": "a", "log_prob": None}],
                    "generated_text": "a",
                }
            ],
        },
    }
    made.reset_next_token()
    assert made.get_next_token() == formats._json_output_formatter(output) == ""


def test_a_stream_of_several_sequences_waits_too() -> None:
    first, last = written(request("jsonlines", n=2))
    assert (first, len(last.splitlines())) == ("", 2)


def failed(form: str) -> dict[str, Any]:
    made = request(form)
    made.set_next_token(Token(-1, "", -1, True, "no memory"), True, "error")
    answer: dict[str, Any] = json.loads(made.get_next_token())
    return answer


def test_failures() -> None:
    whole, line = failed("json"), failed("jsonlines")
    assert (whole["generated_text"], whole["error"], whole["code"]) == (None, "no memory", 400)
    assert whole["details"]["finish_reason"] == line["details"]["finish_reason"] == "error"
    assert line["token"]["error_msg"] == "no memory"
    assert failed("3p")["error"] == failed("3p_stream")["error"] == {"error_code": 400, "error_msg": "no memory"}


def test_metered() -> None:
    made = request("3p")
    made.request_output.prompt_tokens_details = [Token(9, "Who?")]
    assert json.loads(written(made)[-1]) == {
        "body": {
            "generation": "Who?I €",
            "prompt_token_count": 1,
            "generation_token_count": 2,
            "stop_reason": "length",
        },
        "metering": {"inputTokenCount": 1, "outputTokenCount": 2},
        "content_type": "application/json",
    }
    first, last = map(json.loads, written(request("3p_stream")))
    assert first["metering"] == {"inputTokenCount": 0, "outputTokenCount": 1}
    assert (last["metering"], last["body"]["prompt_token_count"]) == ({"outputTokenCount": 2}, None)
    assert (first["body"]["stop_reason"], last["body"]["stop_reason"]) == (None, "length")


def test_chat() -> None:
    made = request("json_chat")
    made.request_output.prompt_tokens_details = [Token(9, "Who?")] * 3
    answer = json.loads(written(made)[-1])
    assert answer.pop("created") > 0
    assert answer == {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "I €"},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def test_chat_log_probabilities_have_the_bytes_of_the_text() -> None:
    answer = json.loads(written(request("json_chat", logprobs=True))[-1])
    shown = answer["choices"][0]["logprobs"]["content"][1]
    assert shown["bytes"] == shown["top_logprobs"][0]["bytes"] == list(" €".encode())
    assert shown["top_logprobs"][0]["token"] == " €"


def test_chat_streams() -> None:
    lines = [json.loads(text)["choices"][0] for text in written(request("jsonlines_chat"))]
    assert [line["delta"] for line in lines] == [{"content": "I", "role": "assistant"}, {"content": " €"}]
    assert [line["finish_reason"] for line in lines] == [None, "length"]
    first, last = written(request("sse_chat"))
    assert json.loads(first.removeprefix("data: "))["object"] == "chat.completion.chunk"
    event, end, _ = last.split("\n\n")
    assert json.loads(event.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert end == "data: [DONE]"


@pytest.mark.parametrize("form", ["jsonlines_chat", "3p_stream"])
def test_only_the_last_token_of_a_step_says_why_it_ended(form: str) -> None:
    made = request(form)
    for index in range(2):
        made.set_next_token(Token(index, "x"), index == 1, "length")
    first, last = made.get_next_token().splitlines()
    assert ("length" in first, "length" in last) == (False, True)


@pytest.mark.parametrize(
    ("name", "stream", "tgi", "expected"),
    [
        ("json", True, True, "application/json"),
        ("json_chat", True, False, "application/json"),
        ("3p", True, False, "application/json"),
        ("jsonlines", False, False, "application/jsonlines"),
        ("jsonlines_chat", False, False, "application/jsonlines"),
        ("3p_stream", False, False, "application/jsonlines"),
        ("sse", False, False, "text/event-stream"),
        ("sse_chat", False, False, "text/event-stream"),
        ("none", False, False, "text/plain"),
        (None, False, True, "application/json"),
        (None, True, False, "application/jsonlines"),
        (None, True, True, "text/event-stream"),
    ],
)
def test_content_types(name: str | None, stream: bool, tgi: bool, expected: str) -> None:
    assert get_output_formatter(name, stream, tgi)[1] == expected


def test_names(caplog: pytest.LogCaptureFixture) -> None:
    assert get_output_formatter(written, False, False) == (written, None)
    assert get_output_formatter("none", False, False)[0] is None
    with caplog.at_level(logging.WARNING):
        assert get_output_formatter("zzz", False, False)[0] is formats._json_output_formatter
    assert "zzz" in caplog.text
    with pytest.raises(TypeError, match="None is not a callable object"):
        request("none")


def test_an_older_function_gets_what_there_is_so_far() -> None:
    calls: list[tuple[Any, ...]] = []

    def older(token: Token, first: bool, last: bool, details: dict, text: str, request_id: int) -> str:
        calls.append((token.request_id, first, last, details["finish_reason"], details["generated_tokens"], text))
        assert len(details["tokens"]) == details["generated_tokens"]
        assert (details["parameters"], details["prompt_tokens"], request_id) == ({"stream": True}, 0, 7)
        return "."

    made = request(older, stream=True)
    for index in range(2):
        made.request_output.set_next_token(Token(index, "x"), 0, index == 1, "length")
    assert made.get_next_token() == ".."
    assert calls == [(7, True, False, None, 1, "x"), (7, False, True, "length", 2, "xx")]


def typed(output: TextGenerationOutput, extra: int = 0) -> str:
    return output.sequences[0].get_next_token()[0].text


def typed_by_name(output: "formats.RequestOutput", extra: int = 0) -> str:
    return output.sequences[0].get_next_token()[0].text


def untyped(output):  # type: ignore[no-untyped-def]
    return output.sequences[0].get_next_token()[0].text


@pytest.mark.parametrize("function", [typed, typed_by_name, untyped])
def test_a_newer_function_gets_the_output(function: Callable[..., str]) -> None:
    assert adapt_legacy_output_formatter(function) is function
    assert written(request(function)) == ["I", " €"]


@pytest.mark.parametrize(
    "function",
    [lambda token, first: f"{token.text}{first}", lambda *given: f"{given[0].text}{given[1]}"],
    ids=["fewer", "any number"],
)
def test_an_older_function_may_take_fewer(function: Callable[..., str]) -> None:
    assert written(request(function)) == ["ITrue", " €False"]


def test_a_function_that_reads_no_token_is_called_once_a_step() -> None:
    def at_the_end(output: RequestOutput) -> str:
        return "done" if output.finished else ""

    assert written(request(at_the_end, stream=True)) == ["", "done"]
