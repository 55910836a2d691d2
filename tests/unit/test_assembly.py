# SPDX-License-Identifier: Apache-2.0
"""User's code, engine and app together: when the engine starts, what answers until then, reloads, limits."""

import asyncio
from pathlib import Path

import httpx
import pytest

from serving.errors import ConfigError, Problem
from tests.conformance.exchange import polled
from tests.custom import DIRECT, WRAPPED, CustomServer, serving

pytestmark = pytest.mark.pure
HI = {"inputs": "hi"}
HEAD = """
import asyncio, os, time
from djl_python import Input, Output
"""
ECHO = (
    HEAD
    + """
async def handle(inputs):
    if inputs.is_empty(): return START
    payload = inputs.get_as_json()
    if payload.get("none"): return None
    if payload.get("raise"): raise RuntimeError("boom")
    if payload.get("die"): os._exit(3)
    if payload.get("sleep"): await asyncio.sleep(payload["sleep"])
    return {"version": 1}
"""
)
UNAVAILABLE = "the default handler is not available: "
FAILED = ConfigError([Problem("ENGINE", "no memory")])


def echo(start: str = "None") -> dict[str, str]:
    return {"model.py": ECHO.replace("START", start)}


async def ask(server: CustomServer, **payload: object) -> httpx.Response:
    return await server.client.post("/invocations", json={**HI, **payload})


@pytest.mark.parametrize(
    ("properties", "start", "num_starts"),
    [
        (DIRECT, "None", 0),
        (DIRECT, "Output()", 0),
        (DIRECT, "1/0", 0),
        (WRAPPED, "None", 1),
        (WRAPPED, "Output()", 0),
        (WRAPPED, "1/0", 1),
        ({"option.entryPoint": "model.py"}, "None", 1),
        ({"option.entryPoint": "model.py"}, "Output()", 0),
        ({"option.default_engine": "eager"}, "Output()", 1),
        ({**WRAPPED, "option.default_engine": "off"}, "None", 0),
    ],
    ids=str,
)
async def test_when_the_engine_starts(tmp_path: Path, properties: dict[str, str], start: str, num_starts: int) -> None:
    async with serving(tmp_path, echo(start), properties) as server:
        assert server.num_starts == num_starts
        assert (await ask(server)).json() == {"version": 1}
        assert server.num_starts == num_starts


async def test_engine_that_starts_late(tmp_path: Path) -> None:
    """Its routes refuse until it is there, the first one starts it, and then they are the engine's."""
    async with serving(tmp_path, echo("Output()"), DIRECT) as server:
        assert (await server.client.get("/v1/models")).status_code == 503
        assert "lmi_custom_handler_deaths_total" in (await server.client.get("/metrics")).text
        assert (await server.client.get("/info")).status_code == 429
        assert server.num_starts == 0
        refused = await server.client.post("/v1/completions", json={"prompt": "x"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["message"] == "the engine is starting; try again"
        async with asyncio.timeout(30):
            while (answer := await server.client.post("/v1/completions", json={"prompt": "x"})).status_code == 503:
                await asyncio.sleep(0.01)
        assert answer.json()["choices"] == [{"text": "D:x"}]
        assert server.num_starts == 1
        assert (await server.client.get("/info")).status_code == 200


async def submit(server: CustomServer, **payload: object) -> str:
    """The token of an answer that is fetched later."""
    answer = await server.client.post("/invocations", json={**HI, **payload}, headers={"x-synchronous": "false"})
    assert (answer.status_code, answer.text) == (200, "")
    token: str = answer.headers["x-next-token"]
    return token


async def test_results_outlive_the_switch_to_a_late_engine(tmp_path: Path) -> None:
    """One submitted before and fetched after, one that itself starts the engine."""
    async with serving(tmp_path, echo("Output()"), DIRECT) as server:
        early, late = await submit(server, sleep=0.5), await submit(server, **{"raise": True})
        answer = await polled({"token": late}, server.client)
        assert (answer.json(), answer.headers["x-custom-handler-fallback"]) == (
            {"generated_text": "D:hi"},
            "runtime_error",
        )
        assert server.num_starts == 1
        assert (await polled({"token": early}, server.client)).json() == {"version": 1}


STREAM = (
    HEAD
    + """
def handle(inputs):
    if inputs.is_empty(): return Output()
    def pieces():
        for number in range(3):
            yield number
        if inputs.get_as_json().get("raise"): raise RuntimeError("boom")
    output = Output(code=201).add_property("x-of", "user").add_stream_content(pieces())
    output.finalize(lambda: open("finalized", "a").write("once"))
    return output
"""
)


@pytest.mark.parametrize("fails", [False, True])
async def test_stream_of_a_handler_that_is_fetched_later(tmp_path: Path, fails: bool) -> None:
    async with serving(tmp_path, {"model.py": STREAM}, DIRECT) as server:
        token = await submit(server, **{"raise": fails})
        first = await polled({"token": token, "pages": 1, "headers": {"x-max-items": "1"}}, server.client)
        assert (first.status_code, first.headers["x-of"], first.text) == (201, "user", '{"outputs": 0}\n')
        rest = await polled({"token": first.headers["x-next-token"]}, server.client)
        assert (rest.status_code, rest.headers["x-of"]) == (201, "user")
        assert rest.text.startswith('{"outputs": 1}\n{"outputs": 2}\n')
        assert ("boom" in rest.text) is fails
        finalized = tmp_path / "finalized"
        async with asyncio.timeout(30):  # the worker does it once the last item was delivered
            while not finalized.exists() or not finalized.stat().st_size:
                await asyncio.sleep(0.01)
        assert finalized.read_text() == "once"
        assert server.assembly.num_in_flight == 0


async def test_requests_wait_for_a_late_engine_together(tmp_path: Path) -> None:
    async with serving(tmp_path, echo("Output()"), DIRECT) as server:
        answers = await asyncio.gather(*(ask(server, none=1) for _ in range(5)), server.client.post("/", json=HI))
        assert [answer.status_code for answer in answers] == [200] * 6
        assert server.num_starts == 1


async def test_engine_that_does_not_start(tmp_path: Path) -> None:
    """It is tried once; the handler goes on, and what it leaves or fails at is answered without an engine."""
    async with serving(tmp_path, echo("Output()"), DIRECT, start_failure=FAILED) as server:
        assert (await ask(server, none=1)).status_code == 204
        failed = await ask(server, **{"raise": 1})
        assert (failed.status_code, failed.json()["error"]) == (424, "boom")
        refused = await server.client.post("/v1/completions", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, f"{UNAVAILABLE}no memory")
        assert (await ask(server)).json() == {"version": 1}
        assert (await server.client.get("/ping")).status_code == 200
        assert server.num_starts == 1


async def test_eager_engine_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no memory"):
        async with serving(tmp_path, echo(), WRAPPED, start_failure=FAILED):
            pass


async def test_without_a_model(tmp_path: Path) -> None:
    """A directory with nothing but code is served; there is nothing to fall back to."""
    async with serving(tmp_path, echo(), {"option.model_id": ""}) as server:
        assert (await ask(server)).json() == {"version": 1}
        assert (await ask(server, none=1)).status_code == 204
        refused = await server.client.post("/v1/completions", json={"prompt": "x"})
        assert (refused.status_code, server.num_starts) == (503, 0)
        assert refused.json()["error"]["message"] == f"{UNAVAILABLE}there is none beside this custom handler"


@pytest.mark.parametrize(("threshold", "status"), [("0", 500), ("1", 200)])
async def test_deaths_without_a_default_handler(tmp_path: Path, threshold: str, status: int) -> None:
    properties = {"option.model_id": "", "retry_threshold": threshold}
    async with serving(tmp_path, echo(), properties) as server:
        died = await ask(server, die=1)
        assert died.status_code == 500
        assert died.json() == {"error": "Custom handler failed: worker exited with code 3", "code": 500}
        assert (await server.client.get("/ping")).status_code == status


async def test_deaths_beside_a_default_handler(tmp_path: Path) -> None:
    async with serving(tmp_path, echo(), WRAPPED) as server:
        died = await ask(server, die=1)
        assert (died.json(), died.headers["x-custom-handler-fallback"]) == ({"generated_text": "D:hi"}, "worker_died")
        assert (await server.client.get("/ping")).status_code == 200


async def described(server: CustomServer) -> dict[str, object]:
    model: dict[str, object] = (await server.client.get(f"/models/{NAME(server)}")).json()[0]["models"][0]
    return model


def NAME(server: CustomServer) -> str:
    return server.assembly._config.model_name


async def reload(server: CustomServer) -> httpx.Response:
    return await server.client.post(f"/models/{NAME(server)}/reload")


async def test_reload(tmp_path: Path) -> None:
    """The file that is there now; one that does not work changes nothing."""
    async with serving(tmp_path, echo(), DIRECT) as server:
        model = tmp_path / "model.py"
        model.write_text(model.read_text().replace('"version": 1', '"version": 2'))
        assert (await ask(server)).json() == {"version": 1}
        assert (await reload(server)).json() == {"status": f"Model {NAME(server)} reloaded"}
        assert (await ask(server)).json() == {"version": 2}
        for broken, text in {
            "def handle(:": "SyntaxError in model.py, line 1",
            "raise OSError('no')\ndef handle(i): pass": "model.py: OSError: no",
            "x = 1": "it has no handler any more",
        }.items():
            model.write_text(broken)
            refused = await reload(server)
            assert refused.status_code == 424
            assert text in refused.json()["error"]
            assert (await ask(server)).json() == {"version": 2}
        model.unlink()
        assert (await reload(server)).json() == {"code": 424, "error": "not reloaded: there is no model.py"}
        assert (await server.client.post("/models/nope/reload")).status_code == 404


async def test_reload_mends_a_broken_start(tmp_path: Path) -> None:
    async with serving(tmp_path, {"model.py": "def handle(:"}, DIRECT) as server:
        assert str((await described(server))["degraded"]).startswith("load_error: SyntaxError in model.py")
        assert (await ask(server)).headers["x-custom-handler-fallback"] == "load_error"
        (tmp_path / "model.py").write_text(echo()["model.py"])
        assert (await reload(server)).status_code == 200
        assert (await ask(server)).json() == {"version": 1}
        assert "degraded" not in await described(server)


FORMATTERS = """
from djl_python.output_formatter import output_formatter
@output_formatter
def f(response): return {"said": response.choices[0].text, "by": 1}
"""


async def test_reload_of_formatters(tmp_path: Path) -> None:
    async with serving(tmp_path, {"model.py": FORMATTERS}, DIRECT) as server:
        assert (await ask(server)).json() == {"said": "D:hi", "by": 1}
        (tmp_path / "model.py").write_text(FORMATTERS.replace('"by": 1', '"by": 2'))
        assert (await reload(server)).status_code == 200
        assert (await ask(server)).json() == {"said": "D:hi", "by": 2}
        for broken in ("1/0", "def f(:"):
            (tmp_path / "model.py").write_text(FORMATTERS + broken)
            assert (await reload(server)).status_code == 424
        (tmp_path / "model.py").write_text(ECHO)
        assert "started without one" in (await reload(server)).json()["error"]
        assert (await ask(server)).json() == {"said": "D:hi", "by": 2}


async def test_limits(tmp_path: Path) -> None:
    """As much is taken on as the queue admits; a stream that pauses for too long ends with a line that says so."""
    code = (
        HEAD
        + """
async def slow():
    yield {"n": 1}
    await asyncio.sleep(30)
async def handle(inputs):
    if inputs.is_empty(): return Output()
    if "stream" in inputs.get_as_json(): return slow()
    await asyncio.sleep(30)
"""
    )
    properties = {"chunked_read_timeout": "1", "job_queue_size": "1", "option.max_rolling_batch_size": "1"}
    async with serving(tmp_path, {"model.py": code}, properties) as server:
        stream = await ask(server, stream=1)
        assert [line for line in stream.text.splitlines() if line] == [
            '{"n": 1}',
            '{"error": "nothing more within 1 s; chunked_read_timeout bounds the wait", "code": 504}',
        ]
        waiting = [asyncio.create_task(ask(server, id=number)) for number in range(2)]
        await asyncio.sleep(0.2)
        refused = await ask(server)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        late = [await task for task in waiting]
        assert [answer.status_code for answer in late] == [504, 504]
        assert late[0].json() == {"error": "no answer within 1 s; predict_timeout bounds the wait", "code": 504}
        assert server.assembly.num_in_flight == 0


async def test_start_up_call_that_does_not_end(tmp_path: Path) -> None:
    code = {"model.py": "import time\ndef handle(inputs): time.sleep(60)"}
    properties = {"option.model_loading_timeout": "1"}
    async with serving(tmp_path, code, properties) as server:
        assert (await ask(server)).headers["x-custom-handler-fallback"] == "load_error"
        assert "the start-up call did not end within 1 s" in str((await described(server))["degraded"])
        assert "did not end within 1 s" in (await reload(server)).json()["error"]
    with pytest.raises(ConfigError, match="the start-up call did not end within 1 s"):
        async with serving(tmp_path, code, {**properties, "option.custom_handler_fallback": "off"}):
            pass


@pytest.mark.parametrize(("properties", "start"), [(DIRECT, "Output()"), (WRAPPED, "None")], ids=str)
async def test_engine_that_the_start_up_call_uses(tmp_path: Path, properties: dict[str, str], start: str) -> None:
    """It is started once, and its routes are there."""
    code = (
        HEAD
        + f"""
from djl_python import engine
async def handle(inputs):
    if inputs.is_empty():
        await engine.generate({{"inputs": "warm"}})
        return {start}
    return {{"version": 1}}
"""
    )
    async with serving(tmp_path, {"model.py": code}, properties) as server:
        assert server.num_starts == 1
        answer = await server.client.post("/v1/completions", json={"prompt": "x"})
        assert answer.json()["choices"] == [{"text": "D:x"}]
        assert server.num_starts == 1


SCRIPT = "def model_fn(d): return 1\ndef predict_fn(x, m): return {'v': m}\n"


@pytest.mark.parametrize(
    ("files", "properties"),
    [(echo("Output()"), {"option.default_engine": "off"}), ({"model.py": SCRIPT}, DIRECT)],
    ids=["off", "script"],
)
async def test_no_engine_whatever_is_asked(tmp_path: Path, files: dict[str, str], properties: dict[str, str]) -> None:
    async with serving(tmp_path, files, properties) as server:
        for path in ("/v1/completions", "/generate"):
            assert (await server.client.post(path, json=HI)).status_code in (503, 424)
        assert server.num_starts == 0


async def test_reload_after_a_refused_start(tmp_path: Path) -> None:
    async with serving(tmp_path, echo("Output(code=500, message='no')"), DIRECT) as server:
        assert (await ask(server)).headers["x-custom-handler-fallback"] == "load_error"
        (tmp_path / "model.py").write_text(echo()["model.py"])
        assert (await reload(server)).status_code == 200
        assert [(await ask(server)).json() for _ in range(3)] == [{"version": 1}] * 3
        assert (await ask(server, die=1)).headers["x-custom-handler-fallback"] == "worker_died"
        await server.until_up()
        assert (await ask(server)).json() == {"version": 1}


async def test_what_a_client_cannot_say(tmp_path: Path) -> None:
    """Properties that handlers trust are the server's, whatever headers and attributes a request brings."""
    code = (
        HEAD
        + """
NAMES = ("model_dir", "device_id", "handler", "requestId", "batch_size")
async def handle(inputs):
    if inputs.is_empty(): return None
    return {name: inputs.get_property(name) for name in NAMES} | {"batches": len(inputs.get_batches())}
"""
    )
    headers = {"model_dir": "/etc", "Device_Id": "9", "batch_size": "3000000", "batch_000.x": "1", "x-request-id": "r"}
    attributes = {"x-amzn-sagemaker-custom-attributes": "MODEL_DIR=/etc;requestid=evil;Batch_Size=7"}
    async with serving(tmp_path, {"model.py": code}) as server:
        answer = await server.client.post("/invocations", json=HI, headers=headers | attributes)
        assert answer.json() == {
            "model_dir": str(tmp_path), "device_id": "-1", "handler": "handle", "requestId": "r", "batch_size": None,
            "batches": 1,
        }  # fmt: skip
        for name in ("handler", "Handler"):
            named = await server.client.post(
                "/invocations", json=HI, headers={"x-amzn-sagemaker-custom-attributes": f"{name}=evil"}
            )
            assert named.status_code == 400


async def test_large_form(tmp_path: Path) -> None:
    code = HEAD + "async def handle(inputs): return None if inputs.is_empty() else {'n': len(inputs.get_as_bytes('t'))}"
    async with serving(tmp_path, {"model.py": code}) as server:
        answer = await server.client.post("/invocations", data={"t": "x" * 2_000_000}, files={"f": b"abc"})
        assert answer.json() == {"n": 2_000_000}


async def test_description(tmp_path: Path) -> None:
    async with serving(tmp_path, {}, {"batch_size": "3"}) as server:
        name = NAME(server)
        models = (await server.client.get("/models")).json()
        assert models == {"models": [{"modelName": name, "modelUrl": f"file:{tmp_path}/", "status": "READY"}]}
        model = await described(server)
        assert {key: model[key] for key in ("modelName", "status", "queueSize", "batchSize", "requestInQueue")} == {
            "modelName": name, "status": "Healthy", "queueSize": 1000, "batchSize": 3, "requestInQueue": 0
        }  # fmt: skip
        (group,) = model["workerGroups"]  # type: ignore[misc]
        assert group["device"] == {"deviceType": "cpu", "deviceId": -1}
        unknown = await server.client.get("/models/nope")
        assert unknown.json() == {"code": 404, "type": "ModelNotFoundException", "message": "Workflow not found: nope"}


@pytest.mark.parametrize("entry_point", ["src/answers.py", "src.answers", "{}/src/answers.py"])
async def test_entry_points(tmp_path: Path, entry_point: str) -> None:
    """A file, a module, an absolute path; what lies beside the model can be imported from each."""
    files = {
        "src/__init__.py": "",
        "src/answers.py": "import helper\ndef handle(inputs): return {'n': helper.N, 'name': __name__}",
        "helper.py": "N = 7",
    }
    async with serving(tmp_path, files, {"option.entryPoint": entry_point.format(tmp_path)}) as server:
        answer = (await ask(server)).json()
        assert answer["n"] == 7
        assert (answer["name"] == "src.answers") == (entry_point == "src.answers")
