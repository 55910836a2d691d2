# SPDX-License-Identifier: Apache-2.0
"""The container image, built for a CPU: `make test-image` builds it with buildah and runs these.

No engine for containers is needed: a run of the image is a chroot into its root file system, read-only, in namespaces
of its own, with the variables, the user and the command that the image's configuration says. Needs root.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from botocore.exceptions import ClientError

from serving import demo
from tests.conftest import ROOT
from tests.e2e.process import LmiProcess
from tests.e2e.sagemaker import request, runtime

IMAGE = os.environ.get("LMI_TEST_IMAGE", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not IMAGE, reason="LMI_TEST_IMAGE is not set: make test-image builds the image first"),
]
QUESTION = "What is LoRA?"
SOMEBODY = 12345
"""A user that the image does not know."""
SETUP = """
set -e
mount --make-rprivate /
mount --bind "$ROOTFS" "$ROOTFS"
mount -o remount,bind,ro "$ROOTFS"
mount -t proc proc "$ROOTFS/proc"
mount --rbind /sys "$ROOTFS/sys"
mount --rbind /dev "$ROOTFS/dev"
mount -t tmpfs -o mode=1777,exec tmpfs "$ROOTFS/tmp"
"""
"""What `docker run --read-only --tmpfs /tmp:exec` does."""


@dataclass(frozen=True)
class Image:
    """The image's configuration, and its root file system.

    Attributes:
        config: as Docker keeps it.
        rootfs: where it is mounted.
        container: buildah's name for what is mounted there.
    """

    config: Mapping[str, Any]
    rootfs: Path
    container: str

    def command(self, words: Sequence[str], env: Mapping[str, str], mounts: Mapping[str, Path], user: int) -> list[str]:
        """One that runs `words`, or the image's own, as the first process of a container."""
        config = self.config
        set_up = SETUP.replace("$ROOTFS", str(self.rootfs))
        for target, source in mounts.items():
            place = shlex.quote(f"{self.rootfs}{target}")
            set_up += f"mount --bind {shlex.quote(str(source))} {place}\nmount -o remount,bind,ro {place}\n"
        variables = [*config["Env"], *(f"{name}={value}" for name, value in env.items())]
        inside = ["chroot", "--userspec", f"{user}:0", "--groups", "0", str(self.rootfs)]
        inside += ["env", "-i", "-C", config["WorkingDir"], *variables]
        inside += [*config["Entrypoint"], *(words or config["Cmd"])]
        return [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            f"{set_up}exec {shlex.join(inside)}",
        ]

    def run(self, *words: str, user: int = SOMEBODY, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs it to its end."""
        return subprocess.run(self.command(words, env, {}, user), capture_output=True, text=True, timeout=300)


@dataclass
class Running:
    """A server in a container.

    Attributes:
        process: `unshare`, whose exit code is the server's.
        port: where it listens.
    """

    process: LmiProcess
    port: int
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def first(self) -> psutil.Process:
        """The container's process 1, as this machine sees it."""
        (child,) = psutil.Process(self.process.process.pid).children()
        return child

    def inside(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a program beside the server, as `docker exec` does."""
        first = self.first
        env = dict(line.split("=", 1) for line in Path(f"/proc/{first.pid}/environ").read_text().split("\0") if line)
        enter = ["nsenter", "--target", str(first.pid), "--mount", "--pid", "--root", "--wd"]
        return subprocess.run([*enter, *words], env=env, capture_output=True, text=True, timeout=60)

    def ask(self, body: dict[str, Any]) -> httpx.Response:
        # vLLM compiles kernels at the first requests, too.
        return httpx.post(f"{self.url}/invocations", json=body, timeout=300)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The built image, mounted; its container is removed afterwards."""
    inspected = json.loads(buildah("inspect", "--type", "image", IMAGE))
    container = buildah("from", IMAGE)
    try:
        yield Image(inspected["Docker"]["config"], Path(buildah("mount", container)), container)
    finally:
        buildah("rm", container)


def buildah(*words: str) -> str:
    return subprocess.run(["buildah", *words], check=True, capture_output=True, text=True).stdout.strip()


def start(image: Image, mounts: Mapping[str, Path], port: int, *words: str, **env: str) -> Running:
    """A server that is ready, on a read-only root, as somebody whom the image does not know."""
    env |= {"SAGEMAKER_BIND_TO_PORT": str(port)}
    process = LmiProcess([], None, image.command(words, env, mounts, SOMEBODY))
    return Running(process.wait_ready(), port)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def port() -> int:
    """A port for one test."""
    return free_port()


def question(adapter: str | None = None) -> dict[str, Any]:
    """LMI's body that `demo.answers(adapter)` has the answer to."""
    return {"inputs": QUESTION, "parameters": {"max_new_tokens": 60}} | ({"adapters": adapter} if adapter else {})


def test_what_it_says_of_itself(image: Image) -> None:
    config = image.config
    assert set(config["ExposedPorts"]) == {"8080/tcp"}
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "lmi-healthcheck"]
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("1000", ["lmi-entrypoint"], ["serve"])
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == "LMI Server"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["org.opencontainers.image.version"])
    assert re.fullmatch(r"[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert labels["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"


def test_what_is_not_in_it(image: Image) -> None:
    """No pip, no caches, no lists of packages, and nothing of the machine that built it."""
    found = [*image.rootfs.glob("opt/lmi/lib/python*/site-packages/pip"), *image.rootfs.glob("opt/lmi/bin/pip*")]
    found += [*image.rootfs.glob("var/lib/apt/lists/*"), *image.rootfs.glob("var/cache/apt/archives/*.deb")]
    found += [image.rootfs / name for name in ("src", "root/.cache", "etc/pip.conf", "root/ca.crt", "root/.config")]
    found += [image.rootfs / "etc/apt/apt.conf.d/99build"]
    assert [path for path in found if path.exists()] == []
    assert [path.name for path in (image.rootfs / "tmp").iterdir()] == [".cache"]


def test_other_words_are_run_as_given(image: Image) -> None:
    assert image.run("id", "-u").stdout == f"{SOMEBODY}\n"
    assert (
        image.run("sh", "-c", "g++ --version > /tmp/x && python3 -c 'import venv, ensurepip' && exit 9").returncode == 9
    )
    found = image.run("sh", "-c", "command -v vllm; command -v lmi").stdout.split()
    assert found == ["/opt/lmi-server/bin/vllm", "/opt/lmi-server/bin/lmi"]
    shim = image.run("vllm", "serve", "--help")
    assert shim.stdout.startswith("usage: lmi serve [MODEL]")


def test_defaults(image: Image) -> None:
    """It listens on every address, at 8080, and serves what is at /opt/ml/model."""
    settings = json.loads(image.run("lmi", "config", "org/name", "--json").stdout)
    arguments = settings["vllm_arguments"]
    assert (arguments["host"], arguments["port"]) == ("0.0.0.0", 8080)
    done = image.run()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "lmi: error: no model: the model store '/opt/ml/model' is empty or missing; give a model: lmi serve MODEL, or "
        "HF_MODEL_ID=MODEL, or option.model_id=MODEL in serving.properties"
    )


@pytest.mark.parametrize(
    ("words", "env", "code", "said"),
    [
        (["serve", "org/name", "--nope"], {}, 2, "unknown flag --nope"),
        (["--model", "org/name"], {"OPTION_DTYPE": "int3"}, 1, "dtype='int3'"),
        ([], {"HF_MODEL_ID": "org/name", "MAX_BATCH_SIZE": "many"}, 1, "max_rolling_batch_size='many'"),
        (["serve", "/nowhere"], {}, 1, "directory '/nowhere' does not exist"),
    ],
)
def test_bad_configuration(image: Image, words: list[str], env: dict[str, str], code: int, said: str) -> None:
    """One clear line, and no exit code 0."""
    done = image.run(*words, **env)
    errors = [line for line in done.stderr.splitlines() if line.startswith("lmi: error: ")]
    assert (done.returncode, len(errors)) == (code, 1)
    assert said in errors[0]
    assert "Traceback" not in done.stderr


def test_variables(image: Image, port: int) -> None:
    """A model by variables, quantized; a constrained answer; health; a stream that a SIGTERM finds in flight."""
    env = {"HF_MODEL_ID": "/opt/ml/model", "OPTION_SERVED_MODEL_NAME": "small", "OPTION_SHUTDOWN_TIMEOUT": "150"}
    env["OPTION_QUANTIZE"] = "bitsandbytes"
    running = start(image, {"/opt/ml/model": demo.MODEL_DIR}, port, **env)
    try:
        began = time.monotonic()
        assert httpx.get(f"{running.url}/ping").status_code == 200
        assert time.monotonic() - began < 2
        assert running.ask(question()).json()["generated_text"] == demo.answers()[QUESTION]
        answer = running.ask({"inputs": QUESTION, "parameters": {"guided_choice": ["small", "large"]}})
        assert answer.json()["generated_text"] in ("small", "large")
        assert httpx.get(f"{running.url}/v1/models").json()["data"][0]["id"] == "small"
        done = running.inside("lmi-healthcheck")
        assert (done.returncode, done.stdout) == (0, f"http://127.0.0.1:{port}/ping: 200\n")

        fields = {"max_new_tokens": 300, "ignore_eos": True, "details": True}
        body = {"inputs": "Tell", "stream": True, "parameters": fields}
        with httpx.stream("POST", f"{running.url}/invocations", json=body, timeout=170) as stream:
            rows = stream.iter_lines()
            lines = [next(rows)]
            running.first.send_signal(signal.SIGTERM)
            lines += [line for line in rows if line]
        assert len(lines) == 300
        assert json.loads(lines[-1])["details"]["generated_tokens"] == 300
        assert running.process.wait() == 0
    finally:
        running.process.end()


def test_model_directory(image: Image, port: int, tmp_path: Path) -> None:
    """serving.properties, adapters/, and a model.py with a requirement, which is installed without pip."""
    model = tmp_path / "model"
    shutil.copytree(demo.MODEL_DIR, model)
    wheel(model / "requirements")
    (model / "requirements.txt").write_text("shout\n")
    (model / "model.py").write_text(HANDLER)
    running = start(image, {"/opt/ml/model": model}, port, DJL_OFFLINE="true")
    try:
        assert running.ask({"inputs": "hello", "shout": True}).json() == {"shouted": "HELLO"}
        for adapter in (None, "pirate", "brief"):
            assert running.ask(question(adapter)).json()["generated_text"] == demo.answers(adapter)[QUESTION]
        assert httpx.get(f"{running.url}/models").json()["models"][0]["modelName"] == "model"

        # What a handler leaves behind is process 1's to wait for.
        left = int(running.ask({"inputs": "", "orphan": True}).json()["orphan"])
        deadline = time.monotonic() + 20
        while left in (inside := numbers_inside(running.first)):
            assert time.monotonic() < deadline, inside
            time.sleep(0.1)
        running.first.send_signal(signal.SIGTERM)
        assert running.process.wait() == 0
    finally:
        running.process.end()


@pytest.fixture(scope="class")
def container(image: Image) -> Iterator[Running]:
    """Started with configs/sagemaker.env, as docker/sagemaker/deploy.py has it; SIGTERM ends it well."""
    lines = (ROOT / "configs/sagemaker.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    running = start(image, {"/opt/ml/model": demo.MODEL_DIR}, free_port(), "serve", **settings)
    try:
        yield running
        running.first.send_signal(signal.SIGTERM)
        assert running.process.wait() == 0
    finally:
        running.process.end()


class TestSageMaker:
    """What SageMaker does with the image: `serve`, its port, its settings, its mount; asked through boto3."""

    @pytest.fixture
    def client(self, container: Running) -> Iterator[Any]:
        with runtime(container.url) as client:
            yield client

    def test_mount_is_read_only(self, container: Running) -> None:
        """Not even root may write to it."""
        done = container.inside("touch", "/opt/ml/model/serving.properties")
        assert (done.returncode, "Read-only file system" in done.stderr) == (1, True)

    def test_invoke_endpoint(self, client: Any) -> None:
        answer = json.load(client.invoke_endpoint(**request(question()))["Body"])
        assert answer == {"generated_text": demo.answers()[QUESTION]}
        messages = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 60}
        answer = json.load(client.invoke_endpoint(**request(messages))["Body"])
        assert answer["choices"][0]["message"]["content"] == demo.answers()[QUESTION]
        with pytest.raises(ClientError) as refused:
            client.invoke_endpoint(**request({"inputs": QUESTION, "parameters": {"top_p": 7}}))
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 424

    def test_ping_while_it_streams(self, container: Running, client: Any) -> None:
        """Within two seconds, or SageMaker takes the container for dead."""
        body = {"inputs": "Tell", "stream": True, "parameters": {"max_new_tokens": 300, "ignore_eos": True}}

        def stream(_: int) -> list[bytes]:
            answer = client.invoke_endpoint_with_response_stream(**request(body))
            return [event["PayloadPart"]["Bytes"] for event in answer["Body"]]

        seconds = []
        with ThreadPoolExecutor(8) as pool, httpx.Client(timeout=10) as pinging:
            streams = [pool.submit(stream, number) for number in range(8)]
            while not all(stream.done() for stream in streams):
                began = time.monotonic()
                assert pinging.get(f"{container.url}/ping").status_code == 200
                seconds.append(time.monotonic() - began)
        assert len(seconds) > 10
        assert max(seconds) < 2
        for parts in (stream.result() for stream in streams):
            assert len(parts) > 10
            rows = [json.loads(line) for line in b"".join(parts).splitlines() if line]
            assert len(rows) == 300
            assert "".join(row["token"]["text"] for row in rows) == rows[-1]["generated_text"]

    def test_answer_that_is_fetched_later(self, client: Any) -> None:
        """For what takes longer than SageMaker's minute, with its one header alone."""
        started = client.invoke_endpoint(**request(question(), CustomAttributes="x-synchronous=false"))
        assert started["Body"].read() == b""
        token = started["CustomAttributes"].removeprefix("x-next-token=")
        poll = request(question(), CustomAttributes=f"x-starting-token={token}")
        deadline = time.monotonic() + 60
        while (answer := client.invoke_endpoint(**poll))["ResponseMetadata"]["HTTPStatusCode"] == 202:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert json.load(answer["Body"]) == {"generated_text": demo.answers()[QUESTION]}


def test_buildah_run(image: Image, port: int) -> None:
    """What docs/deploy.md begins with, by buildah itself, as the image's own user; the model is the image's, too."""
    command = ["buildah", "run", "--isolation", "chroot", f"--env=SAGEMAKER_BIND_TO_PORT={port}", image.container]
    process = LmiProcess([], None, [*command, *image.config["Entrypoint"], "serve", "--demo"])
    try:
        process.wait_ready()
        assert process.url == f"http://127.0.0.1:{port}"
        answer = subprocess.run(["sh", "-c", process.command], capture_output=True, text=True, timeout=120).stdout
        assert json.loads(answer) == {"generated_text": demo.answers()[QUESTION]}
    finally:
        stop_server_below(process)
        process.end()


HANDLER = """
import json
import subprocess

import shout


async def handle(inputs):
    if inputs.is_empty():
        return None
    payload = json.loads(inputs.get_as_bytes())
    if payload.get("shout"):
        return {"shouted": shout.shout(payload["inputs"])}
    if payload.get("orphan"):
        script = "setsid sleep 1 > /dev/null & echo $!"
        return {"orphan": subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout.strip()}
    return None
"""


def wheel(folder: Path) -> None:
    """A package that nothing else has."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "shout-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("shout.py", "def shout(text):\n    return text.upper()\n")
        archive.writestr("shout-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: shout\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("shout-1.0.dist-info/WHEEL", tags)
        archive.writestr("shout-1.0.dist-info/RECORD", "")


def numbers_inside(first: psutil.Process) -> set[int]:
    """The process ids that the container sees, those of zombies included."""
    found = set()
    for process in first.children(recursive=True):
        with suppress(OSError, StopIteration):
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            found.add(int(next(line for line in status if line.startswith("NSpid:")).split()[-1]))
    return found


def stop_server_below(process: LmiProcess) -> None:
    """Signals the server itself: what stands between hands nothing on."""
    for child in psutil.Process(process.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.cmdline()[1:3] == ["/opt/lmi-server/bin/lmi", "serve"]:
                child.send_signal(signal.SIGTERM)
                psutil.wait_procs([child], 30)
