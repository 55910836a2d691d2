# SPDX-License-Identifier: Apache-2.0
"""Directories from S3 and from the Hub, fetched over HTTP from servers on loopback."""

import hashlib
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import boto3.s3.inject
import pytest
from boto3.exceptions import RetriesExceededError
from huggingface_hub import constants
from moto.server import ThreadedMotoServer

from serving import downloads
from serving.downloads import DownloadFailed, check_model, fetch

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client, with one bucket."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for one in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=one["Key"])
    return client


def files(directory: Path) -> dict[str, str]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_text() for path in paths}


class TestS3:
    def put(self, s3: Any, **objects: str) -> None:
        for key, text in objects.items():
            s3.put_object(Bucket="bucket", Key=key, Body=text.encode())

    def test_files_below_a_prefix(self, s3: Any, tmp_path: Path) -> None:
        self.put(s3, **{"a/one": "1", "a/deep/two": "2", "a/empty/": "", "ab/other": "3"})
        copy = fetch("s3://bucket/a", tmp_path)
        assert files(copy) == {"one": "1", "deep/two": "2"}
        assert copy.parent == tmp_path
        assert fetch("s3://bucket/a/", tmp_path) == copy
        assert [path.name for path in tmp_path.iterdir()] == [copy.name]

    def test_wanted_files(self, s3: Any, tmp_path: Path) -> None:
        self.put(s3, **{"a/one.json": "1", "a/two.bin": "2", "a/deep/three.json": "3"})
        assert files(fetch("s3://bucket/a", tmp_path, ["*.json"])) == {"one.json": "1", "deep/three.json": "3"}

    def test_one_object(self, s3: Any, tmp_path: Path) -> None:
        """As an archive of a model is given."""
        self.put(s3, **{"a/model.tar.gz": "1", "a/model.tar.gz.old": "2"})
        assert files(fetch("s3://bucket/a/model.tar.gz", tmp_path)) == {"model.tar.gz": "1"}

    def test_transfer_that_fails(self, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(s3, **{"a/one": "1"})

        def fail(*_: Any) -> None:
            raise RetriesExceededError(OSError("reset"))

        monkeypatch.setattr(boto3.s3.inject, "download_file", fail)
        with pytest.raises(DownloadFailed, match="s3://bucket/a: Max Retries Exceeded"):
            fetch("s3://bucket/a", tmp_path)

    def test_whole_bucket(self, s3: Any, tmp_path: Path) -> None:
        self.put(s3, one="1")
        assert files(fetch("s3://bucket", tmp_path)) == {"one": "1"}

    def test_nothing_is_fetched_twice(self, s3: Any, tmp_path: Path) -> None:
        """But what has changed is, and the old copy stays for who reads it."""
        self.put(s3, **{"a/one": "1"})
        before = fetch("s3://bucket/a", tmp_path)
        (before / "mark").touch()
        assert (fetch("s3://bucket/a", tmp_path) / "mark").exists()
        self.put(s3, **{"a/one": "2"})
        assert files(fetch("s3://bucket/a", tmp_path)) == {"one": "2"}
        assert files(before) == {"one": "1", "mark": ""}

    @pytest.mark.parametrize(
        ("source", "text"),
        [
            ("s3://bucket/none", "s3://bucket/none: nothing is there"),
            ("s3://nobody/a", "s3://nobody/a: An error occurred (NoSuchBucket) "),
            ("s3://bucket/out", "s3://bucket/out/../../one: the name leads out of its directory"),
        ],
    )
    def test_failure(self, s3: Any, tmp_path: Path, source: str, text: str) -> None:
        self.put(s3, **{"out/../../one": "1"})
        with pytest.raises(DownloadFailed) as raised:
            fetch(source, tmp_path / "copies")
        assert str(raised.value).startswith(text)
        assert files(tmp_path) == {}

    def test_disk_full(self, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.put(s3, **{"a/one": "1"})

        def rename(source: str, target: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(downloads.os, "rename", rename)
        with pytest.raises(DownloadFailed, match=r"^s3://bucket/a: No space left on device$"):
            fetch("s3://bucket/a", tmp_path)
        assert files(tmp_path) == {}

    def test_no_credentials(self, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(DownloadFailed, match="Unable to locate credentials"):
            fetch("s3://bucket/a", tmp_path)

    def test_no_client(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "boto3", None)
        with pytest.raises(DownloadFailed, match=r"needs boto3: pip install 'lmi-server\[s3\]'"):
            fetch("s3://bucket/a", tmp_path)


COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"adapter_config.json": b"{}", "deep/weights": b"1234"}


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's API that a snapshot needs; `org/gated` and unknown names are refused."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        name, is_api = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]), parts[0] == "api"
        if name == "org/gated":
            self._send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif name != "org/good":
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif is_api and parts[-1] not in ("main", "v1", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif is_api and "tree" in parts:
            tree = [{"type": "file", "path": path, "size": len(data), "oid": "0"} for path, data in FILES.items()]
            self._send(200, json.dumps(tree).encode())
        elif is_api:
            siblings = [{"rfilename": path} for path in FILES]
            self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        else:
            data = FILES.get("/".join(parts[4:]), b"")
            if parts[3] not in ("main", "v1", COMMIT):
                return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            if not data:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            etag = hashlib.sha1(data).hexdigest()
            self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


class TestHub:
    def test_snapshot(self, hub: ThreadingHTTPServer, tmp_path: Path) -> None:
        copy = fetch("hf://org/good", tmp_path)
        assert {path: (copy / path).read_bytes() for path in FILES} == FILES
        assert fetch("hf://org/good@v1", tmp_path) == copy

    @pytest.mark.parametrize(
        ("source", "text"),
        [
            ("hf://org/gated", "is gated; accept its terms on the Hub and set HF_TOKEN"),
            ("hf://org/nobody", "is not on the Hub, or is private; check the name, or set HF_TOKEN"),
            ("hf://org/good@v9", "has no revision 'v9'"),
            ("hf://org/a/b", "Repo id must be in the form"),
        ],
    )
    def test_failure(self, hub: ThreadingHTTPServer, tmp_path: Path, source: str, text: str) -> None:
        with pytest.raises(DownloadFailed) as raised:
            fetch(source, tmp_path)
        assert str(raised.value).startswith(f"{source}: {text}")

    def test_no_network(self, hub: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(DownloadFailed, match=r"^hf://org/good: is not in the cache, and the Hub cannot be reached"):
            fetch("hf://org/good", tmp_path)

    @pytest.mark.parametrize(
        ("name", "revision", "text"),
        [
            ("org/gated", None, "is gated; accept its terms on the Hub and set HF_TOKEN"),
            ("org/nobody", None, "is not on the Hub, or is private; check the name, or set HF_TOKEN"),
            ("org/good", "v9", "has no revision 'v9'"),
        ],
    )
    def test_model_that_cannot_be_had(
        self, hub: ThreadingHTTPServer, name: str, revision: str | None, text: str
    ) -> None:
        with pytest.raises(DownloadFailed) as raised:
            check_model(name, revision, None)
        assert str(raised.value) == f"{name}: {text}"

    def test_model_without_a_configuration(self, hub: ThreadingHTTPServer) -> None:
        """It may be one of another layout, which is vLLM's to judge."""
        check_model("org/good", None, None)
