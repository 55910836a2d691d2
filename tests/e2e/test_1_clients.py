# SPDX-License-Identifier: Apache-2.0
"""Programs of other people's, unchanged, against the shared server; and many kinds of request at once."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from serving import demo
from tests.e2e.process import LmiProcess
from tests.e2e.sagemaker import request, runtime

pytestmark = pytest.mark.engine
ANSWERS = demo.answers()
QUESTION = "What is LoRA?"
ANSWER = ANSWERS[QUESTION]
EMOJI_QUESTION = next(question for question, answer in ANSWERS.items() if not answer.isascii() and "é" in answer)


class TestInferenceClient:
    """huggingface_hub's client, by URL, on TGI's routes."""

    @pytest.fixture
    def client(self, url: str) -> InferenceClient:
        return InferenceClient(model=url)

    def test_text(self, client: InferenceClient) -> None:
        assert client.text_generation(QUESTION, max_new_tokens=40) == ANSWER

    def test_details(self, client: InferenceClient) -> None:
        answer = client.text_generation(QUESTION, max_new_tokens=40, details=True, decoder_input_details=True)
        details = answer.details
        assert (answer.generated_text, details.finish_reason, details.seed) == (ANSWER, "eos_token", None)
        assert "".join(token.text for token in details.tokens if not token.special) == ANSWER
        assert details.tokens[-1].special
        assert "".join(token.text for token in details.prefill) == QUESTION
        assert details.generated_tokens == len(details.tokens)

    @pytest.mark.parametrize("question", [QUESTION, EMOJI_QUESTION])
    def test_stream(self, client: InferenceClient, question: str) -> None:
        """A text that splits inside a character arrives whole."""
        events = list(client.text_generation(question, max_new_tokens=60, stream=True, details=True))
        assert events[-1].generated_text == ANSWERS[question]
        assert "".join(event.token.text for event in events if not event.token.special) == ANSWERS[question]
        assert [event.index for event in events] == list(range(1, len(events) + 1))
        assert events[-1].details.generated_tokens == len(events)
        # Without details the client joins special tokens, too; TGI sends them as well.
        assert "".join(client.text_generation(question, max_new_tokens=60, stream=True)) == f"{ANSWERS[question]}</s>"

    def test_grammar(self, client: InferenceClient) -> None:
        schema = {"type": "json", "value": {"enum": ["x", "y"]}}
        assert json.loads(client.text_generation("Tell", max_new_tokens=10, grammar=schema)) in ("x", "y")
        regex = {"type": "regex", "value": "(red|blue)"}
        assert client.text_generation("Tell", max_new_tokens=10, grammar=regex) in ("red", "blue")

    def test_stop_string_stays(self, client: InferenceClient) -> None:
        text = client.text_generation(QUESTION, max_new_tokens=40, stop=["frozen"])
        assert text == ANSWER[: ANSWER.index("frozen") + len("frozen")]

    def test_best_of(self, client: InferenceClient) -> None:
        answer = client.text_generation(
            "Tell", max_new_tokens=5, best_of=3, do_sample=True, temperature=1.5, details=True
        )
        assert len(answer.details.best_of_sequences) == 2

    def test_adapter(self, client: InferenceClient) -> None:
        text = client.text_generation(QUESTION, max_new_tokens=40, adapter_id="pirate")
        assert text == demo.answers("pirate")[QUESTION]

    def test_refusal(self, client: InferenceClient) -> None:
        with pytest.raises(ValidationError, match="`watermark` is not supported"):
            client.text_generation(QUESTION, watermark=True)


class TestSageMakerRuntime:
    """boto3's `sagemaker-runtime` client, on an endpoint in front of the server."""

    @pytest.fixture
    def client(self, url: str) -> Iterator[Any]:
        with runtime(url) as client:
            yield client

    def test_lmi_body(self, client: Any) -> None:
        answer = client.invoke_endpoint(**request({"inputs": QUESTION, "parameters": {"max_new_tokens": 40}}))
        assert json.loads(answer["Body"].read()) == {"generated_text": ANSWER}

    def test_custom_attributes_are_tolerated(self, client: Any) -> None:
        asked = request({"inputs": QUESTION}, CustomAttributes="trace=1", Accept="application/xml")
        assert json.loads(client.invoke_endpoint(**asked)["Body"].read()) == {"generated_text": ANSWER}

    def test_openai_body(self, client: Any) -> None:
        body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 40}
        answer = client.invoke_endpoint(**request(body))
        assert json.loads(answer["Body"].read())["choices"][0]["message"]["content"] == ANSWER

    def test_response_stream(self, client: Any) -> None:
        """Many parts, which join to the lines that the server wrote."""
        body = {"inputs": EMOJI_QUESTION, "stream": True, "parameters": {"max_new_tokens": 60}}
        answer = client.invoke_endpoint_with_response_stream(**request(body))
        parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
        lines = [json.loads(line) for line in b"".join(parts).splitlines() if line]
        assert (
            "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"] == ANSWERS[EMOJI_QUESTION]
        )
        assert len(parts) > 3

    def test_refusal(self, client: Any) -> None:
        with pytest.raises(ClientError) as raised:
            client.invoke_endpoint(**request({"inputs": QUESTION, "parameters": {"top_p": 7}}))
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 424


async def test_many_kinds_at_once(server: LmiProcess) -> None:
    """64 greedy requests of every kind, each answered as when it is alone, while bad ones among them fail alone."""
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        kinds = [kind for question in ANSWERS for kind in _kinds(question)]
        kinds += [_beams(question) for question in list(ANSWERS)[:2]]
        alone = [read(await client.post(path, json=body)) for path, body, read in kinds]
        numbers = [number % len(kinds) for number in range(64)]
        bad = [client.post("/invocations", json={"inputs": "x", "parameters": {"top_p": 7}}) for _ in range(8)]
        together = [client.post(kinds[number][0], json=kinds[number][1]) for number in numbers]
        answers = await asyncio.gather(*together, *bad)
    assert [kinds[number][2](answer) for number, answer in zip(numbers, answers, strict=False)] == [
        alone[number] for number in numbers
    ]
    assert [answer.status_code for answer in answers[64:]] == [424] * 8
    assert set(alone) == set(ANSWERS.values())


def _kinds(question: str) -> list[tuple[str, dict[str, Any], Any]]:
    """Path, body, and how to read the text out of the answer."""
    chat = [{"role": "user", "content": question}]
    greedy = {"max_new_tokens": 60, "do_sample": False}
    return [
        ("/invocations", {"inputs": question, "parameters": greedy}, lambda answer: answer.json()["generated_text"]),
        ("/invocations", {"inputs": question, "stream": True, "parameters": greedy},
         lambda answer: json.loads(answer.text.strip().split("\n")[-1])["generated_text"]),
        ("/v1/completions", {"prompt": question, "max_tokens": 60, "temperature": 0},
         lambda answer: answer.json()["choices"][0]["text"]),
        ("/v1/chat/completions", {"messages": chat, "max_tokens": 60, "temperature": 0},
         lambda answer: answer.json()["choices"][0]["message"]["content"]),
        ("/generate", {"inputs": question, "parameters": {"max_new_tokens": 60}},
         lambda answer: answer.json()["generated_text"]),
    ]  # fmt: skip


def _beams(question: str) -> tuple[str, dict[str, Any], Any]:
    """A kind for a few requests: each token of its answer is a request of its own to the engine."""
    body = {"inputs": question, "parameters": {"max_new_tokens": 30, "num_beams": 2}}
    return "/invocations", body, lambda answer: answer.json()["generated_text"]
