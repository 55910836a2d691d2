# SPDX-License-Identifier: Apache-2.0
"""What a user does first, on the real engine. The files of this folder run in order; this one only asks."""

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from serving import demo
from tests.conformance.adapters import check_steps
from tests.conformance.cases import Case, cases
from tests.conformance.exchange import check, check_together
from tests.e2e.process import LmiProcess

pytestmark = pytest.mark.engine

QUESTION = "What is LoRA?"
ANSWER = demo.answers()[QUESTION]
CHAT = [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize("case", [*cases("http", "real", "async"), *cases("schemas", "real", "async")], ids=str)
async def test_contract(case: Case, url: str, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    values = {"model": "demo", "long": "many words " * 3000, "oversized": "x" * (65 * 1024 * 1024)}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await check(case, client, values)


@pytest.mark.parametrize("case", cases("http", "adapters"), ids=str)
async def test_contract_of_adapters(case: Case, url: str, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    values = {"model": "demo", "a1": "brief", "a2": "pirate"}
    values |= {"a1_dir": str(demo.ADAPTERS_DIR / "brief"), "dir": str(demo.ADAPTERS_DIR / "pirate")}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await check_steps(case, client, values)


def test_adapters_in_one_batch(url: str) -> None:
    """Rows without an adapter are the base model's, also where every slot holds one."""
    names = ["pirate", None, "brief", "", "pirate"]
    body = {"inputs": [QUESTION] * 5, "adapters": names, "parameters": {"max_new_tokens": 40}}
    answers = httpx.post(f"{url}/invocations", json=body, timeout=60).json()
    expected = [demo.answers(name or None)[QUESTION] for name in names]
    assert [answer["generated_text"] for answer in answers] == expected


def test_adapter_that_is_loaded_by_its_first_request(url: str) -> None:
    """Any route's request will do, and every list has it before."""
    query = {"name": "lazy", "src": str(demo.ADAPTERS_DIR / "pirate"), "preload": "false"}
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.post("/adapters", params=query).status_code == 200
        assert "lazy" in [model["id"] for model in client.get("/v1/models").json()["data"]]
        body = {"model": "lazy", "prompt": QUESTION, "max_tokens": 40}
        text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
        assert client.post("/v1/unload_lora_adapter", json={"lora_name": "lazy"}).status_code == 200
        assert client.get("/adapters/lazy").status_code == 404
    assert text == demo.answers("pirate")[QUESTION]


async def test_adapter_that_is_replaced_under_a_stream(url: str) -> None:
    """The stream ends with the adapter that it began with, while others already get the new one in the same steps."""
    long = {"max_new_tokens": 200, "ignore_eos": True}
    body = {"inputs": QUESTION, "adapters": "changing", "parameters": {"max_new_tokens": 40}}
    new = {"lora_name": "changing", "lora_path": str(demo.ADAPTERS_DIR / "brief"), "load_inplace": True}
    async with httpx.AsyncClient(base_url=url, timeout=60) as client, asyncio.timeout(120):
        for name in ("changing", "other"):
            query = {"name": name, "src": str(demo.ADAPTERS_DIR / "pirate")}
            assert (await client.post("/adapters", params=query)).status_code == 200
        async with client.stream("POST", "/invocations", json={**body, "parameters": long, "stream": True}) as stream:
            lines = stream.aiter_lines()
            began = await anext(lines)
            change = asyncio.create_task(client.post("/v1/load_lora_adapter", json=new))
            texts = set[str]()
            while demo.answers("brief")[QUESTION] not in texts:
                for adapter in ["pirate", "brief", "other", "changing"]:  # with the stream's one too many for the slots
                    answer = await client.post("/invocations", json=body | {"adapters": adapter})
                texts.add(answer.json()["generated_text"])
            assert not change.done(), "the stream was to outlast the first answer of the new adapter"
            rest = [line async for line in lines if line]
        assert (await change).status_code == 200
        for name in ("changing", "other"):
            assert (await client.delete(f"/adapters/{name}")).status_code == 200
    said = "".join(json.loads(line)["token"]["text"] for line in [began, *rest])
    assert said.startswith(demo.answers("pirate")[QUESTION])
    assert texts <= {demo.answers(kind)[QUESTION] for kind in ("pirate", "brief")}


async def test_prompt_logprobs_in_one_batch(url: str) -> None:
    """Each prompt's are those of its own model, whatever runs beside it."""
    body = {"prompt": "What is LoRA? Tell", "prompt_logprobs": 0, "max_tokens": 30, "ignore_eos": True}

    async def of(client: httpx.AsyncClient, model: str) -> list[float]:
        (choice,) = (await client.post("/v1/completions", json={**body, "model": model})).json()["choices"]
        return [next(iter(token.values()))["logprob"] for token in choice["prompt_logprobs"][1:]]

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        names = ["lmi", "pirate"]
        alone = [await of(client, name) for name in names]
        together = await asyncio.gather(*(of(client, name) for name in names * 6))
    assert alone[0] != pytest.approx(alone[1], abs=0.1)
    assert all(given == pytest.approx(alone[number % 2], abs=0.1) for number, given in enumerate(together))


@pytest.mark.parametrize("case", cases("schemas", "together", "async"), ids=str)
async def test_contract_of_several_requests(case: Case, url: str, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await check_together(case, client)


def test_printed_command(server: LmiProcess) -> None:
    done = subprocess.run(["sh", "-c", server.command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"generated_text": ANSWER}


README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


@pytest.mark.parametrize(("command", "output"), re.findall(r"^\$ (curl .*)\n(\{.*\})$", README, re.MULTILINE))
def test_commands_of_the_readme(url: str, command: str, output: str) -> None:
    done = subprocess.run(
        ["sh", "-c", command.replace("http://127.0.0.1:8080", url)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == json.loads(output)


def test_program_of_the_readme(url: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (program,) = [block for block in blocks if "openai" in block]
    done = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8080", url)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{ANSWER}\n"


@pytest.mark.parametrize("question", demo.answers())
def test_every_answer(url: str, question: str) -> None:
    payload = {"inputs": question, "parameters": {"max_new_tokens": 40}, "stream": True}
    lines = [json.loads(line) for line in httpx.post(f"{url}/invocations", json=payload).text.split("\n") if line]
    assert "".join(line["token"]["text"] for line in lines) == demo.answers()[question]
    assert lines[-1]["generated_text"] == demo.answers()[question]
    assert all(line["token"]["logprob"] <= 0 for line in lines)


@pytest.mark.parametrize("adapter", demo.adapter_names())
def test_adapters_beside_the_model(url: str, adapter: str) -> None:
    payload = {"inputs": QUESTION, "adapters": adapter, "parameters": {"max_new_tokens": 40}}
    assert httpx.post(f"{url}/invocations", json=payload).json() == {"generated_text": demo.answers(adapter)[QUESTION]}


def test_openai_sdk(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused")
    whole = client.chat.completions.create(model="lmi", messages=CHAT)
    assert whole.choices[0].message.content == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(model="lmi", messages=CHAT, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == ANSWER
    assert "lmi" in [model.id for model in client.models.list()]


def test_openai_bodies_on_lmi_routes(url: str) -> None:
    whole = httpx.post(f"{url}/invocations", json={"messages": CHAT}).json()
    assert whole["choices"][0]["message"]["content"] == ANSWER
    completion = httpx.post(f"{url}/predictions/demo", json={"prompt": QUESTION, "max_tokens": 40}).json()
    assert completion["choices"][0]["text"] == ANSWER
    answer = httpx.post(f"{url}/invocations", json={"messages": CHAT, "stream": True})
    assert answer.headers["content-type"] == "application/jsonlines"
    assert answer.text.endswith("}\n\n")
    lines = [json.loads(line) for line in answer.text.splitlines() if line]
    assert lines[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(line["choices"][0]["delta"].get("content") or "" for line in lines) == ANSWER


def test_logprobs_are_the_engines(url: str) -> None:
    payload = {"inputs": QUESTION, "parameters": {"max_new_tokens": 40, "details": True, "top_n_tokens": 2}}
    details = httpx.post(f"{url}/invocations", json=payload).json()["details"]
    upstream = httpx.post(
        f"{url}/v1/completions", json={"prompt": QUESTION, "max_tokens": 40, "logprobs": 2, "temperature": 0}
    ).json()["choices"][0]["logprobs"]
    assert details["finish_reason"] == "eos_token"
    assert details["generated_tokens"] == len(details["tokens"]) == len(upstream["tokens"])
    assert [token["text"] for token in details["tokens"]] == upstream["tokens"]
    assert [token["logprob"] for token in details["tokens"]] == pytest.approx(upstream["token_logprobs"], abs=1e-3)
    assert all(len(step) == 2 for step in details["top_tokens"])


def lmi(url: str, **payload) -> dict:
    """The decoded answer to the question; `parameters` may leave the length out."""
    payload["parameters"] = {"max_new_tokens": 40, "details": True} | payload.get("parameters", {})
    return httpx.post(f"{url}/invocations", json={"inputs": QUESTION} | payload, timeout=60).json()


@pytest.mark.parametrize(
    ("parameters", "text", "reason"),
    [
        ({"max_new_tokens": 3}, "LoRA adapts a", ("length", None)),
        ({"stop": "frozen"}, "LoRA adapts a ", ("stop_sequence", "frozen")),
        ({"stop": ["zzz"], "stop_sequences": ["frozen"]}, "LoRA adapts a ", ("stop_sequence", "frozen")),
        ({"return_full_text": True}, QUESTION + ANSWER, ("eos_token", None)),
        ({"do_sample": False, "seed": 7}, ANSWER, ("eos_token", None)),
        ({"guided_choice": ["aa", "aa"]}, "aa", ("eos_token", None)),
        ({"max_new_tokens": 100_000}, ANSWER, ("eos_token", None)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_parameters(url: str, parameters: dict, text: str, reason: tuple) -> None:
    answer = lmi(url, parameters=parameters)
    details = answer["details"]
    assert answer["generated_text"] == text
    assert (details["finish_reason"], details["stop_reason"]) == reason
    assert details["seed"] == parameters.get("seed")
    assert len(details["tokens"]) == details["generated_tokens"]


def test_prompt_tokens(url: str) -> None:
    prefill = lmi(url, parameters={"decoder_input_details": True})["details"]["prefill"]
    assert "".join(token["text"] for token in prefill) == QUESTION
    assert prefill[0]["logprob"] is None
    assert len(lmi(url, parameters={"decoder_input_details": True, "truncate": 2})["details"]["prefill"]) == 2
    refused = lmi(url, parameters={"decoder_input_details": True}, stream=True)
    assert refused["code"] == 424
    assert "only supported without streaming" in refused["error"]


@pytest.mark.parametrize("count", [1, 3])
def test_top_tokens(url: str, count: int) -> None:
    details = lmi(url, parameters={"top_n_tokens": count})["details"]
    assert [len(step) for step in details["top_tokens"]] == [count] * len(details["tokens"])
    assert [step[0] for step in details["top_tokens"]] == details["tokens"]


def test_two_choices_streamed(url: str) -> None:
    payload = {"inputs": QUESTION, "stream": True, "parameters": {"max_new_tokens": 40, "n": 2}}
    text = httpx.post(f"{url}/invocations", json=payload, timeout=60).text
    lines = [json.loads(line) for line in text.split("\n") if line]
    for index in (0, 1):
        mine = [line for line in lines if line["index"] == index]
        assert "".join(line["token"]["text"] for line in mine) == ANSWER
        assert mine[-1]["generated_text"] == ANSWER
    assert text.endswith("}\n\n\n")


def test_answer_that_is_fetched_later(url: str) -> None:
    """As through SageMaker, which lets its own header pass and no other: page by page, after the client was away."""
    name = "X-Amzn-SageMaker-Custom-Attributes"
    body = {"inputs": QUESTION, "stream": True, "parameters": {"max_new_tokens": 40}}
    submission = httpx.post(f"{url}/invocations", json=body, headers={name: "x-synchronous=false"}, timeout=60)
    assert (submission.status_code, submission.content) == (200, b"")
    answer, said, deadline = submission, "", time.monotonic() + 30
    while next_token := answer.headers.get(name):
        asked = next_token.replace("x-next-token=", "x-starting-token=") + ";x-max-items=3"
        answer = httpx.post(f"{url}/invocations", headers={name: asked}, timeout=60)
        assert (answer.status_code, answer.headers.get("content-type")) in [(202, None), (200, "application/jsonlines")]
        said += answer.text
        assert time.monotonic() < deadline
    lines = [json.loads(line) for line in said.split("\n") if line]
    assert "".join(line["token"]["text"] for line in lines) == lines[-1]["generated_text"] == ANSWER


def test_metrics(url: str) -> None:
    text = httpx.get(f"{url}/metrics").text
    assert "vllm:num_requests_running" in text
    assert 'handler="/invocations"' in text


async def test_mixed_requests_at_once(url: str) -> None:
    """Concurrent answers equal the single ones, and a bad request among them harms nobody."""
    limits = httpx.Limits(max_connections=40)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def ask(question: str, adapter: str | None) -> None:
            payload = {"inputs": question, "parameters": {"max_new_tokens": 40}, "adapters": adapter or ""}
            answer = await client.post("/invocations", json=payload)
            assert answer.json() == {"generated_text": demo.answers(adapter)[question]}

        async def fail() -> None:
            answer = await client.post("/invocations", json={"inputs": QUESTION, "parameters": {"top_p": 7}})
            assert answer.status_code == 424

        asks = [ask(question, adapter) for question in demo.answers() for adapter in (None, *demo.adapter_names())]
        await asyncio.gather(*asks, *(fail() for _ in range(5)))
