# SPDX-License-Identifier: Apache-2.0
"""`option.task=text-embedding` on the real engine: LMI's shape, OpenAI's, adapters, and vectors that mean something."""

import math
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.conformance.cases import Case, cases
from tests.conformance.exchange import check
from tests.e2e.process import LmiProcess

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server() -> Iterator[LmiProcess]:
    """The demo model, asked for vectors instead of text."""
    with LmiProcess(["--demo", "--port", "0"], {"OPTION_TASK": "text-embedding"}) as process:
        yield process


def vectors(server: LmiProcess, **payload: object) -> list[list[float]]:
    answer = httpx.post(f"{server.url}/invocations", json=payload, timeout=30)
    assert answer.status_code == 200, answer.text
    found: list[list[float]] = answer.json()
    return found


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


@pytest.mark.parametrize("case", cases("schemas", "embedding", "embedding"), ids=str)
async def test_contract(case: Case, server: LmiProcess, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        await check(case, client, {"model": "demo", "long": "many words " * 3000})


def test_vectors(server: LmiProcess) -> None:
    texts = ["What is LoRA?", "What is LoRA?", "What is vLLM?"]
    first, again, other = vectors(server, inputs=texts)
    assert cosine(first, again) == pytest.approx(1, abs=1e-3)
    assert cosine(first, other) < 0.99
    assert math.hypot(*first) == pytest.approx(1, abs=1e-3)
    assert cosine(first, vectors(server, inputs=texts[0])[0]) == pytest.approx(1, abs=1e-2)


def test_choices_of_a_request(server: LmiProcess) -> None:
    (plain,) = vectors(server, inputs="What is LoRA?", parameters={"normalize": False})
    assert math.hypot(*plain) > 2
    (adapted,) = vectors(server, inputs="What is LoRA?", adapters="pirate")
    assert cosine(plain, adapted) < 0.99
    (cut,) = vectors(server, inputs="many words " * 3000, parameters={"truncate": 8})
    assert math.hypot(*cut) == pytest.approx(1, abs=1e-3)


def test_openai(server: LmiProcess) -> None:
    """The route, and OpenAI's body on LMI's route, give the vector that LMI's payload gives."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused")
    (ours,) = vectors(server, inputs="What is LoRA?")
    assert cosine(client.embeddings.create(model="lmi", input="What is LoRA?").data[0].embedding, ours) > 0.999
    body = httpx.post(f"{server.url}/invocations", json={"input": "What is LoRA?"}, timeout=30).json()
    assert cosine(body["data"][0]["embedding"], ours) > 0.999


def test_model_that_does_not_generate(server: LmiProcess) -> None:
    answer = httpx.post(f"{server.url}/invocations", json={"prompt": "What is LoRA?"}, timeout=30)
    assert (answer.status_code, "does not generate" in answer.json()["error"]) == (424, True)
    assert httpx.post(f"{server.url}/generate", json={"inputs": "x"}, timeout=30).status_code == 422
