# SPDX-License-Identifier: Apache-2.0
"""A SageMaker endpoint on this machine: AWS's paths in front of a container, streams as AWS's event stream.

Only what `boto3`'s `sagemaker-runtime` client needs; signatures are not looked at. In front of a process in the
end-to-end tests, of the image in `tests/long/test_image.py`.
"""

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zlib import crc32

import boto3
import httpx
from botocore.config import Config

from handlers.base import CUSTOM_ATTRIBUTES


@contextmanager
def runtime(container: str) -> Iterator[Any]:
    """boto3's client of an endpoint whose container listens on `container`; it asks once."""
    with endpoint(container) as address:
        yield boto3.client(
            "sagemaker-runtime",
            region_name="us-east-1",
            endpoint_url=address,
            aws_access_key_id="x",
            aws_secret_access_key="x",
            config=Config(retries={"max_attempts": 0}),
        )


def request(body: dict[str, Any], **more: str) -> dict[str, Any]:
    """What both of the client's calls take."""
    return {"EndpointName": "demo", "ContentType": "application/json", "Body": json.dumps(body), **more}


@contextmanager
def endpoint(container: str) -> Iterator[str]:
    """The address of an endpoint whose container listens on `container`."""

    class Front(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Sends the request on to `/invocations` and the answer back."""
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            with httpx.stream("POST", f"{container}/invocations", content=body, headers=headers, timeout=60) as answer:
                streams = self.path.endswith("/invocations-response-stream") and answer.is_success
                data = b"" if streams else answer.read()
                self.send_response(answer.status_code)
                kind = "application/vnd.amazon.eventstream" if streams else answer.headers.get("content-type", "")
                self.send_header("content-type", kind)
                # All that SageMaker hands on of a container's headers.
                self.send_header(CUSTOM_ATTRIBUTES, answer.headers.get(CUSTOM_ATTRIBUTES, ""))
                self.send_header("connection", "close")
                if not streams:
                    self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                for part in answer.iter_raw() if streams else ():
                    self.wfile.write(_message(part))

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _message(payload: bytes) -> bytes:
    """One `PayloadPart` in AWS's event-stream encoding."""
    named = {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"}
    headers = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in named.items()
    )
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack("!I", crc32(prelude))
    message = prelude + headers + payload
    return message + struct.pack("!I", crc32(message))
