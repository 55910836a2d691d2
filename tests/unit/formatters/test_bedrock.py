# SPDX-License-Identifier: Apache-2.0
"""The third-party schema: its payload, its object, its lines."""

import json
from typing import Any

import pytest

from serving.errors import PayloadError
from serving.formatters.bedrock import BedrockFormatter
from serving.schemas.bedrock import parse
from serving.schemas.generation import GenerationChunk, Token

pytestmark = pytest.mark.pure
A = Token(1, "a", -0.5)


def test_payload() -> None:
    request = parse({"prompt": "p", "max_gen_len": 3, "model": "pirate"}, stream=True)
    (generation,) = request.generations
    assert generation.fields == {"temperature": 0.5, "top_p": 0.9, "max_tokens": 3, "logprobs": 0}
    assert (generation.model, generation.stream, request.output_format) == ("pirate", True, "3p")


@pytest.mark.parametrize(
    "payload", [{"prompt": ""}, {"prompt": 5}, {"prompt": "p", "top_p": "x"}, {"prompt": "\ud800"}]
)
def test_refusal(payload: dict[str, Any]) -> None:
    with pytest.raises(PayloadError):
        parse(payload, stream=False)


def test_stream() -> None:
    stream = BedrockFormatter().stream(parse({"prompt": "p"}, stream=True))
    first = GenerationChunk(0, "aa", [A, A], 2, num_prompt_tokens=4)
    lines = [json.loads(line) for line in stream.step(first).splitlines()]
    lines.append(json.loads(stream.step(GenerationChunk(0, "", [], 0, "abort"))))
    assert [line["body"]["prompt_token_count"] for line in lines] == [4, None, None]
    assert [line["body"]["generation_token_count"] for line in lines] == [1, 2, 2]
    assert [line["body"]["stop_reason"] for line in lines] == [None, None, "abort"]
    assert [line["metering"] for line in lines] == [
        {"inputTokenCount": 4, "outputTokenCount": 1}, {"outputTokenCount": 2}, {"outputTokenCount": 2}
    ]  # fmt: skip
