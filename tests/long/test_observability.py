# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of the real engine: JSON lines, traces at a collector, a function that keeps the loop."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving import demo
from tests.e2e.process import LmiProcess, metric

pytestmark = pytest.mark.long
QUESTION = {"inputs": "What is LoRA?", "parameters": {"max_new_tokens": 40}}
BLOCKING = """
import time
from djl_python.output_formatter import output_formatter

def think_hard():
    time.sleep(2.5)

@output_formatter
def write(event):
    if isinstance(event, str) and "LoRA" in event:
        think_hard()
    return {"said": event} if isinstance(event, str) else event
"""


class Collector:
    """An OpenTelemetry collector that speaks HTTP and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = ExportTraceServiceRequest.FromString(body)
                collector.spans += [
                    span for part in request.resource_spans for scope in part.scope_spans for span in scope.spans
                ]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, traces: set[str], timeout_s: float) -> dict[str, list[Span]]:
        """The spans of each of these traces, once all have one."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = {trace: [span for span in self.spans if span.trace_id.hex() == trace] for trace in traces}
            if all(found.values()):
                return found
            assert time.monotonic() < deadline, f"{len(self.spans)} spans, none of some of {traces}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    opened = Collector()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def server(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LmiProcess]:
    """The demo model with a formatter that computes for long on the loop, telling everything it can."""
    directory = tmp_path_factory.mktemp("observed") / "model"
    shutil.copytree(demo.MODEL_DIR, directory)
    (directory / "model.py").write_text(BLOCKING)
    env = {"SERVING_PROMETHEUS": "true", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    flags = ["--logging-config.formatter", "json", "--otlp-traces-endpoint", collector.url]
    with LmiProcess([str(directory), "--port", "0", *flags], env) as process:
        yield process


def objects(server: LmiProcess) -> list[dict[str, Any]]:
    """The lines that are JSON objects, and so have a level and a text."""
    return [json.loads(line) for line in list(server.output) if line.startswith("{")]


def told(server: LmiProcess, logger: str, count: int) -> list[dict[str, Any]]:
    """The lines of a logger, once there are so many."""
    deadline = time.monotonic() + 10
    while len(found := [line for line in objects(server) if line["name"] == logger]) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_every_line_is_json(server: LmiProcess) -> None:
    """But the two that say that it is ready, which are for people and programs that wait."""
    others = [line for line in server.output if line and not line.startswith(("{", "lmi: model ", "curl "))]
    # Libraries that print do not log; the engine's process is among those whose lines are JSON.
    assert all(" INFO " not in line and " WARNING " not in line for line in others), others
    assert {"EngineCore", "MainProcess"} <= {line["processName"] for line in objects(server)}


def test_line_of_a_request(server: LmiProcess) -> None:
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "What is LoRA?", "max_tokens": 5}).raise_for_status()
    line = told(server, "serving.request_log", 1)[-1]
    assert (line["family"], line["prompt_tokens"], line["tokens"]) == ("openai", 4, 5)
    assert 0 < line["overhead_ms"] < line["total_ms"]
    assert 0 < line["first_output_ms"] <= line["total_ms"]


def test_traces_of_every_route_family(server: LmiProcess, collector: Collector) -> None:
    """A client's trace gets a span from whichever route it asked, with the tokens that were generated."""
    bodies: dict[str, dict[str, Any]] = {
        "/invocations": QUESTION,
        "/generate": QUESTION,
        "/v1/completions": {"prompt": "What is LoRA?", "max_tokens": 5},
    }
    traces = {}
    for number, (path, body) in enumerate(bodies.items(), 1):
        traces[path] = f"{number:032x}"
        headers = {"traceparent": f"00-{traces[path]}-{number:016x}-01"}
        httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=30).raise_for_status()
    found = collector.wait_for(set(traces.values()), 30)
    (span,) = found[traces["/v1/completions"]]
    attributes = {item.key: item.value for item in span.attributes}
    assert attributes["gen_ai.usage.completion_tokens"].int_value == 5
    assert span.parent_span_id.hex() == f"{3:016x}"


def test_function_that_keeps_the_loop(server: LmiProcess) -> None:
    """`/ping` waits for as long; the log names the function, and the metrics count."""
    before = metric(server.url, "lmi_event_loop_stalls_total")
    body = {**QUESTION, "stream": True}
    asking = threading.Thread(
        target=httpx.post, args=(f"{server.url}/invocations",), kwargs={"json": body, "timeout": 60}
    )
    asking.start()
    first, second = told(server, "serving.loop_watch", 2)[-2:]
    asking.join(60)
    assert first["message"].startswith("the event loop is kept from answering by think_hard (")
    assert "model.py" in first["message"]
    assert second["message"].startswith("the event loop goes on; it was kept for ")
    assert metric(server.url, "lmi_event_loop_stalls_total") == before + 1


def test_metrics_under_lmis_names(server: LmiProcess) -> None:
    text = httpx.get(f"{server.url}/server/metrics").text
    for name in ("DJLServingStart_total", "StartupLatency", "LoadModel", "RequestLatency_count", "QueueTime_count"):
        values = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name}{{")]
        assert sum(values) > 0, name
