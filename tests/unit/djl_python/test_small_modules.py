# SPDX-License-Identifier: Apache-2.0
"""The rarer modules: requests and tokens as objects, chat requests, images, counters, streaming out of a model."""

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from djl_python import __version__, import_utils
from djl_python.chat_completions.chat_properties import ChatProperties
from djl_python.chat_completions.chat_utils import is_chat_completions_request
from djl_python.input_parser import TextInput, parse_input_with_formatter
from djl_python.multimodal import utils as images
from djl_python.output_formatter import RequestOutput, TextGenerationOutput
from djl_python.request_io import Sequence, Token
from djl_python.sm_log_filter import SMLogFilter
from djl_python.streaming_utils import StreamingUtils
from djl_python.test_model import create_concurrent_batch_request
from djl_python.three_p.three_p_utils import parse_3p_request
from djl_python.utils import IdCounter, find_model_file, is_streaming, wait_till_generation_finished

pytestmark = pytest.mark.pure


def test_tokens() -> None:
    plain, special = Token(1, "a", -0.5), Token(2, "b", -1.0, True, "why")
    assert plain.as_dict() == {"id": 1, "text": "a", "log_prob": -0.5}
    assert plain.as_tgi_dict() == {"id": 1, "text": "a", "logprob": -0.5}
    assert special.as_dict() == {"id": 2, "text": "b", "log_prob": -1.0, "special_token": True, "error_msg": "why"}
    assert special.as_tgi_dict() == {"id": 2, "text": "b", "logprob": -1.0, "special": True}
    assert plain.request_id is None


def test_a_sequence_is_read_once() -> None:
    sequence, first, last = Sequence(), Token(1, "a"), Token(2, "b")
    assert sequence.get_next_token() == (None, 0, False, False)
    sequence.set_next_token(first)
    assert sequence.get_last_token() is None
    sequence.set_next_token(last, is_last_token=True)
    assert sequence.get_next_token() == (first, 0, True, False)
    assert sequence.has_next_token()
    assert sequence.num_unread_tokens() == 1
    assert sequence.get_next_token() == (last, 1, False, True)
    assert not sequence.has_next_token()
    assert sequence.get_last_token() is last
    sequence.set_next_top_tokens([first])
    assert sequence.get_next_top_tokens() == ([first], 0, True, False)
    assert not sequence.has_next_top_tokens()


def test_generated_text() -> None:
    output = TextGenerationOutput(request_id=0, input=None)
    assert isinstance(output, RequestOutput)
    output.set_next_token(Token(1, "a"))
    assert not output.finished
    output.set_next_token(Token(2, "b"), 1, True)
    assert not output.finished
    output.set_next_token(Token(3, "c"), is_last_token=True, finish_reason="length")
    assert output.finished
    assert output.sequences[0].finish_reason == "length"
    assert [token["id"] for token in output.get_tokens_as_dict()] == [1, 3]
    output.set_best_sequence_index(1)
    assert output.best_sequence_index == 1


def test_requests_can_have_more_fields() -> None:
    @dataclass
    class Mine(TextInput):
        extra: int = 5

    assert (Mine(request_id=1, input_text="x").extra, Mine(1).parameters) == (5, {})


def test_reading_a_batch() -> None:
    bodies = [
        {"inputs": "a", "parameters": {"n": 1}, "stream": True},
        {"inputs": ""},
        {"inputs": "b", "parameters": 5},
        [1],
    ]
    parsed = parse_input_with_formatter(create_concurrent_batch_request(bodies), tokenizer="T")
    (request,) = parsed.requests
    asked = request.request_input
    assert (request.id, asked.input_text, asked.parameters) == (0, "a", {"n": 1, "stream": True})
    assert asked.tokenizer == "T"
    assert len(parsed.batch) == 4
    assert list(parsed.errors) == [1, 2, 3]
    start = "Input Parsing failed. Ensure that the request payload is valid. "
    assert all(text.startswith(start) for text in parsed.errors.values())


def test_reading_a_batch_with_a_formatter() -> None:
    def formatter(item: Any, tokenizer: Any) -> str:
        return f"{item.get_as_json()}{tokenizer}"

    parsed = parse_input_with_formatter(create_concurrent_batch_request([1, 2]), formatter, tokenizer="T")
    assert parsed.requests == ["1T", "2T"]


MESSAGES = [{"role": "user", "content": "hi"}]


def test_chat_defaults() -> None:
    chat = ChatProperties(messages=MESSAGES)
    assert chat.model_dump(by_alias=True, exclude_none=True) == {
        "messages": MESSAGES,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "temperature": 1.0,
        "top_p": 1.0,
        "n": 1,
        "stream": False,
        "ignore_eos": False,
    }


def test_chat_names() -> None:
    chat = ChatProperties(messages=MESSAGES, max_tokens=5, logprobs=True, top_logprobs=3)
    dumped = chat.model_dump(by_alias=True)
    assert (dumped["max_new_tokens"], dumped["logprobs"]) == (5, 3)
    assert ChatProperties(messages=MESSAGES, top_logprobs=3).top_logprobs is None


@pytest.mark.parametrize(
    "setting",
    [
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"temperature": 2.1},
        {"temperature": -0.1},
        {"logit_bias": {"1": 101}},
        {"top_logprobs": 21},
        {"messages": None},
        {"messages": [{"content": "x"}]},
    ],
)
def test_chat_refusals(setting: dict) -> None:
    with pytest.raises(ValidationError):
        ChatProperties(**{"messages": MESSAGES, **setting})


def test_chat_requests() -> None:
    assert is_chat_completions_request({"messages": []})
    assert not is_chat_completions_request({"inputs": "x"})


def picture() -> str:
    memory = io.BytesIO()
    pytest.importorskip("PIL.Image").new("RGB", (2, 3)).save(memory, "png")
    return base64.b64encode(memory.getvalue()).decode()


def test_images_in_messages() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture()}"}}
    chat = ChatProperties(messages=[{"role": "user", "content": [{"type": "text", "text": "what"}, image]}])
    assert chat.messages[0].get_tokenizer_inputs() == {"role": "user", "content": "what\n<image>"}
    assert [one.size for one in chat.messages[0].get_images()] == [(2, 3)]


@pytest.mark.parametrize("url", ["ftp://x/y", "httpx://x", "file:///etc/passwd", "data:text/plain,x", ""])
def test_addresses_of_other_kinds(url: str) -> None:
    with pytest.raises(ValueError, match=r"^Invalid image url$"):
        images.fetch_image(url)


def test_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = picture()
    asked: list[tuple[str, float]] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append((url, timeout))
        return io.BytesIO(base64.b64decode(encoded))

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert images.fetch_image("http://x/y").size == (2, 3)
    assert images.encode_image_base64_from_url("https://x/y") == encoded
    assert asked == [("http://x/y", 10.0), ("https://x/y", 10.0)]
    monkeypatch.setattr(images, "_MOST_BYTES", 5)
    with pytest.raises(ValueError, match="larger than 5 bytes"):
        images.fetch_image("http://x/y")


def test_bedrock() -> None:
    assert parse_3p_request({"prompt": "x"}, True, None, "InvokeEndpoint") == (
        "x",
        {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 512},
    )
    body = {"prompt": "x", "temperature": 1, "top_p": 0.1, "max_gen_len": 5}
    _, parameters = parse_3p_request(body, True, None, "InvokeEndpointWithResponseStream")
    assert parameters == {"temperature": 1, "top_p": 0.1, "max_new_tokens": 5, "stream": True}


def test_counter() -> None:
    counter = IdCounter()
    assert [counter.next_id(), counter.next_id(), counter.get_id()] == [0, 1, 2]
    counter.id = 999999
    assert [counter.next_id(), counter.next_id()] == [999999, 0]
    counter.reset()
    assert counter.get_id() == 0


@pytest.mark.parametrize(
    ("parameters", "waits"),
    [({}, False), ({"n": 1}, False), ({"n": 2}, True), ({"best_of": 2}, True), ({"num_beams": 2}, True)],
)
def test_generations_to_wait_for(parameters: dict, waits: bool) -> None:
    assert wait_till_generation_finished(parameters) is waits
    assert is_streaming({"stream": True})
    assert not is_streaming(parameters)


def test_model_files(tmp_path: Path) -> None:
    assert find_model_file(str(tmp_path), ["pkl"]) is None
    (tmp_path / "a.pkl").touch()
    assert find_model_file(str(tmp_path), ["joblib", ".pkl"]) == str(tmp_path / "a.pkl")
    (tmp_path / "b.joblib").touch()
    with pytest.raises(ValueError, match=r"a\.pkl, b\.joblib"):
        find_model_file(str(tmp_path), ["joblib", "pkl"])


def test_optional_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(import_utils._MODULES, "joblib", "json")
    monkeypatch.setitem(import_utils._MODULES, "xgboost", "not_there_xyz")
    assert import_utils.joblib.__name__ == "json"
    assert import_utils.xgboost is None


def test_health_lines(caplog: pytest.LogCaptureFixture) -> None:
    health = SMLogFilter()

    def shown(text: str) -> Any:
        return health.filter(logging.makeLogRecord({"msg": text}))

    line = "SysHealth: LLM sharding and compilation latency: 845.62 secs"
    rest = f"|#DJLServing:{__version__},LLMShardingAndCompilationLatency:845.62 secs"
    assert shown(line).msg == f"SysHealth.Count:1{rest}"
    assert shown(line).msg == f"SysHealth.Count:2{rest}"
    assert shown("something else: 5") is False
    assert not caplog.records
    assert shown(line + " : more").msg == line + " : more"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


class Tokenizer:
    """Characters; 0 ends, and 200 followed by 201 is one character."""

    pad_token = None
    eos_token = "\0"

    def __call__(self, texts: list[str], **_: Any) -> "Batch":
        return Batch(input_ids=texts)

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        text = "".join(map(chr, tokens)).replace("\0", "")
        return text.replace("\xc8\xc9", "ä").replace("\xc8", "\N{REPLACEMENT CHARACTER}")


class Batch(dict):
    def to(self, device: str) -> "Batch":
        return Batch(self, device=device)


class Model:
    """Puts a prompt and then these steps, as transformers' `generate` does."""

    def __init__(self, *steps: list[int], failure: Exception | None = None):
        self.steps = steps
        self.failure = failure

    def generate(self, streamer: Any, **work: Any) -> None:
        self.work = work
        streamer.put(np.array([[9, 9], [9, 9]]))
        for step in self.steps:
            streamer.put(np.array(step))
        if self.failure:
            raise self.failure
        streamer.end()


def test_streaming_out_of_a_model() -> None:
    stream = StreamingUtils.get_stream_generator("Accelerate")
    model = Model([97, 200], [98, 201], [0, 99])
    got = list(stream(model, Tokenizer(), ["x", "y"], "cpu", top_k=5, unknown=1))
    assert got == [["a", ""], ["b", "ä"], ["", "c"]]
    assert model.work == {"input_ids": ["x", "y"], "device": "cpu", "top_k": 5, "max_new_tokens": 50}


def test_streaming_that_fails() -> None:
    stream = StreamingUtils.get_stream_generator("Accelerate")(
        Model([97, 97], failure=OSError("e")), Tokenizer(), [], "cpu"
    )
    assert next(stream) == ["a", "a"]
    with pytest.raises(OSError, match=r"^e$"):
        next(stream)
    with pytest.raises(ValueError, match="MPI"):
        StreamingUtils.get_stream_generator("MPI")
    with pytest.raises(NotImplementedError):
        StreamingUtils.use_hf_default_streamer(Model(), Tokenizer(), [], "cpu", beam_size=2)
