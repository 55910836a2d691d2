# SPDX-License-Identifier: Apache-2.0
"""TLS, Unix sockets and keys on real processes that have nothing but a handler, and so no engine to start."""

import re
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.process import LmiProcess

pytestmark = pytest.mark.engine
HANDLER = "async def handle(inputs):\n    return None if inputs.is_empty() else {'got': 1}\n"
KEYS = {"flag": "key-of-the-flag-7f3a", "option": "key-of-the-option-91bc", "variable": "key-of-the-variable-c04d"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a handler, and a certificate that it signs itself."""
    directory = tmp_path_factory.mktemp("served")
    (directory / "model.py").write_text(HANDLER)
    files = ["-keyout", str(directory / "key.pem"), "-out", str(directory / "certificate.pem")]
    names = ["-subj", "/CN=localhost-of-this-test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *files, *names]
    subprocess.run(command, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def tls(directory: Path) -> Iterator[LmiProcess]:
    """TLS for inference, a Unix socket for management, and a key from each place that has one."""
    env = {
        "SERVING_CERTIFICATE_FILE": str(directory / "certificate.pem"),
        "SERVING_PRIVATE_KEY_FILE": str(directory / "key.pem"),
        "SERVING_MANAGEMENT_ADDRESS": f"unix:{directory / 'management.sock'}",
        "OPTION_API_KEY": KEYS["option"],
        "VLLM_API_KEY": KEYS["variable"],
    }
    with LmiProcess([str(directory), "--port", "0", "--api-key", KEYS["flag"]], env) as process:
        yield process


def url_of(process: LmiProcess) -> str:
    found = re.search(r"https://127\.0\.0\.1:\d+", process.command)
    assert found is not None, process.command
    return found[0]


def test_tls(tls: LmiProcess, directory: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(directory / "certificate.pem"))
    with httpx.Client(base_url=url_of(tls), verify=trusting) as client:
        assert client.get("/ping").status_code == 200
        assert client.post("/invocations", json={}).status_code == 401
        assert client.get("/models").status_code == 401
        # The flag is stronger than the option, and vLLM's variable joins what there is.
        answers = {name: client.post("/invocations", json={}, headers=bearer(key)) for name, key in KEYS.items()}
        assert client.get("/models", headers=bearer(KEYS["flag"])).status_code == 404
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "flag": 200, "option": 401, "variable": 200
    }  # fmt: skip
    assert answers["flag"].json() == {"got": 1}
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{url_of(tls)}/ping")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url_of(tls).replace('https', 'http')}/ping")


def test_management_by_a_socket(tls: LmiProcess, directory: Path) -> None:
    with httpx.Client(base_url="http://x", transport=httpx.HTTPTransport(uds=f"{directory}/management.sock")) as client:
        assert client.get("/ping").status_code == 200
        assert client.get("/models").status_code == 401
        (model,) = client.get("/models", headers=bearer(KEYS["flag"])).json()["models"]
        assert client.post("/invocations", json={}, headers=bearer(KEYS["flag"])).status_code == 404
    assert model["modelName"] == directory.name
    assert any(f"management at --unix-socket {directory}/management.sock http://localhost" in x for x in tls.output)


def test_secrets_stay_out_of_the_log(tls: LmiProcess, directory: Path) -> None:
    """Neither keys nor what is in the certificate's files; the end removes the socket's file."""
    tls.signal(signal.SIGTERM)
    assert tls.wait() == 0
    text = "\n".join(tls.output)
    assert "POST /invocations" in text, "the log is what is looked into"
    pem = [line for name in ("key.pem", "certificate.pem") for line in (directory / name).read_text().splitlines()]
    assert [secret for secret in (*KEYS.values(), *pem) if secret in text] == []
    assert not (directory / "management.sock").exists()


def test_inference_by_a_socket(directory: Path) -> None:
    """The line that is printed works, every route is there, and the file is gone at the end."""
    path = directory / "inference.sock"
    with LmiProcess([str(directory), "--uds", str(path)]) as process:
        printed = subprocess.run(["sh", "-c", process.command], capture_output=True, text=True, check=True).stdout
        assert printed.endswith('"status": "Healthy"\n  }\n}\n')
        with httpx.Client(base_url="http://x", transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.post("/invocations", json={}).json() == {"got": 1}
            assert client.get("/models").status_code == 200
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not path.exists()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
