# SPDX-License-Identifier: Apache-2.0
"""Requests that nobody would write, on every route: none makes the server fail, and none stays in the engine.

The same requests in each run; `LMI_TEST_EXAMPLES=20000` sends others, and that many.
"""

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.process import LmiProcess
from tests.long.bodies import Sent, sendings
from tests.long.load import check_settled, objects

pytestmark = pytest.mark.long
NUM_BODIES = int(os.environ.get("LMI_TEST_EXAMPLES", "5000"))
NUM_CASES = NUM_BODIES // 125
NUM_CONNECTIONS = 10
KNOWN = {"model": "demo", "name": "pirate"}
"""What there is to be named in a path."""
PATIENCE_S = 1.5
"""What asks for more text than comes within this time is left, as clients leave."""
SOME = settings(
    max_examples=NUM_BODIES // NUM_CONNECTIONS,
    deadline=None,
    derandomize="LMI_TEST_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server() -> Iterator[LmiProcess]:
    with LmiProcess(["--demo", "--port", "0"]) as process:
        yield process


def status_of(answer: httpx.Response) -> int:
    """The answer's status; of a stream that failed, the status that its last line tells."""
    if answer.status_code != 200 or b'"error"' not in answer.content[-2000:]:
        return answer.status_code
    last = objects(answer.text)[-1]
    if isinstance(last, dict) and "error" in last:
        error = last["error"] if isinstance(last["error"], dict) else last
        return int(error.get("code") or 500)
    return 200


async def send(client: httpx.AsyncClient, sent: Sent) -> str:
    """The status, or that the client left."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in sent.headers]
    try:
        async with asyncio.timeout(PATIENCE_S):
            answer = await client.post(sent.path, headers=headers, content=sent.content)
    except TimeoutError:
        return "left"
    status = status_of(answer)
    assert status < 500, (status, answer.text, sent)
    return str(status)


def test_bodies(server: LmiProcess) -> None:
    """Nearly valid payloads and worse on LMI's and TGI's routes, ten at a time."""
    ends: Counter[str] = Counter()

    async def send_all(batch: list[Sent]) -> list[str]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, verify=False) as client:
            return await asyncio.gather(*(send(client, sent) for sent in batch))

    @SOME
    @given(st.lists(sendings(), min_size=NUM_CONNECTIONS, max_size=NUM_CONNECTIONS))
    def run(batch: list[Sent]) -> None:
        ends.update(asyncio.run(send_all(batch)))

    run()
    print(dict(ends))
    assert ends["200"] > NUM_BODIES / 10
    assert ends["424"] > NUM_BODIES / 10
    assert ends["422"] > NUM_BODIES / 10
    assert sum(ends.values()) >= NUM_BODIES
    check_settled(server.url)


NOT_DONE = re.compile("this server serves one model|does not support|tensors are not supported")
"""Models that come and go, what a model that is not made for it is asked for, and KServe's tensors."""
UPSTREAM_FAULT = re.compile(r"'\w+' object has no attribute 'get'")
"""vLLM looks into `structured_outputs` before it knows what it is; on its own routes that is a 500, as upstream."""


def is_asked_for(operation: schemathesis.APIOperation, answer: schemathesis.Response) -> bool:
    """Below 500, a refusal that says so, or a fault that upstream's route has as well."""
    if answer.status_code == 503:
        return "retry-after" in answer.headers and "Worker queue capacity exceeded" in answer.text
    if operation.path.startswith("/v1/") and answer.status_code == 500:
        return UPSTREAM_FAULT.search(answer.text) is not None
    return answer.status_code < 500 or (answer.status_code == 501 and NOT_DONE.search(answer.text) is not None)


def cases_of(operation: schemathesis.APIOperation) -> st.SearchStrategy[schemathesis.Case]:
    """Requests that fit the document and such that do not; half of them to what there is."""
    known = {name: value for name, value in KNOWN.items() if f"{{{name}}}" in operation.path}
    modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
    named = [operation.as_strategy(mode, path_parameters=known) for mode in modes] if known else []
    return st.one_of(*named, *(operation.as_strategy(mode) for mode in modes))


def test_routes(server: LmiProcess) -> None:
    """Every route of our OpenAPI document, vLLM's among them. None has to be left out: none can end the server."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    ends: Counter[str] = Counter()
    for operation in operations:

        @settings(SOME, max_examples=NUM_CASES)
        @given(cases_of(operation))
        def run(case: schemathesis.Case) -> None:
            try:
                answer = case.call(timeout=PATIENCE_S)
            except requests.Timeout:
                ends["left"] += 1
                return
            assert is_asked_for(case.operation, answer), (answer.status_code, answer.text, case.as_curl_command())
            ends[str(answer.status_code)] += 1

        run()
    print(f"{len(operations)} operations", dict(ends))
    assert {"/invocations", "/adapters", "/generate", "/v1/chat/completions"} <= {one.path for one in operations}
    assert ends["200"] > len(operations)
    check_settled(server.url)
