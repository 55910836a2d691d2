# SPDX-License-Identifier: Apache-2.0
"""What the Ray Serve application makes of its arguments, without Ray."""

from pathlib import Path
from typing import Any

import pytest

from serving.config.command_line import scan
from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from serving.errors import ConfigError
from serving.ray_app import Args, deployment_options, without_effect

pytestmark = pytest.mark.pure


def resolved(args: Args, gpus: int = 8, **env: str) -> ResolvedConfig:
    return resolve(env, args.argv, Host(device_count=gpus), Path("/demo"))


def options(gpus: int = 8, env: dict[str, str] | None = None, **args: Any) -> dict[str, Any]:
    given = Args.model_validate({"model_id": "org/m", **args})
    return deployment_options(given, resolved(given, gpus, **(env or {})))


@pytest.mark.parametrize(
    ("args", "argv"),
    [
        ({"model_id": "org/m"}, ["org/m"]),
        ({"demo": "true", "num_replicas": "2"}, ["--demo"]),
        ({"model_id": "org/m", "max_model_len": "4096"}, ["org/m", "--max-model-len=4096"]),
        (
            {"enable_lora": True, "enable-prefix-caching": False},
            ["--enable-lora=true", "--enable-prefix-caching=false"],
        ),
        ({"hf_overrides": {"a": 1}}, ['--hf-overrides={"a": 1}']),
    ],
)
def test_flags(args: dict[str, Any], argv: list[str]) -> None:
    """Values as the command line has them (texts) and as YAML has them (typed)."""
    assert Args.model_validate(args).argv == argv
    assert scan(argv).problems == []


def test_gpus_of_a_replica() -> None:
    found = options(tensor_parallel_size=2, pipeline_parallel_size=2, num_replicas=2)
    assert (found["ray_actor_options"], found["num_replicas"]) == ({"num_gpus": 4}, 2)
    assert options(tensor_parallel_size=2, data_parallel_size=2)["ray_actor_options"] == {"num_gpus": 4}
    assert options(env={"TENSOR_PARALLEL_DEGREE": "max"})["ray_actor_options"] == {"num_gpus": 8}
    assert options(gpus=0)["ray_actor_options"] == {}
    given = {"num_cpus": 2, "num_gpus": 0.5}
    assert options(ray_actor_options=given)["ray_actor_options"] == given


def test_the_server_refuses_before_ray_lets_wait() -> None:
    env = {"SERVING_JOB_QUEUE_SIZE": "10", "OPTION_MAX_ROLLING_BATCH_SIZE": "5"}
    assert options(env=env)["max_ongoing_requests"] == 30
    assert options(max_ongoing_requests="7")["max_ongoing_requests"] == 7


def test_replicas_by_load() -> None:
    found = options(num_replicas="auto", autoscaling_config={"max_replicas": 3})
    assert (found["num_replicas"], found["autoscaling_config"]) == ("auto", {"max_replicas": 3})


def test_time_to_end() -> None:
    assert options()["graceful_shutdown_timeout_s"] == 20
    assert options(shutdown_timeout=60)["graceful_shutdown_timeout_s"] == 65


@pytest.mark.parametrize(
    ("args", "env", "text"),
    [
        (
            {"port": 8000},
            {},
            "port: Ray Serve listens, not a replica (command line --port); say it in Ray Serve's http_options",
        ),
        (
            {},
            {"SERVING_MANAGEMENT_ADDRESS": "http://127.0.0.1:9000"},
            "management_address: Ray Serve listens, not a replica (SERVING_MANAGEMENT_ADDRESS); "
            "say it in Ray Serve's http_options",
        ),
        ({"port_file": "/tmp/port"}, {}, "--port-file: Ray Serve listens, not a replica; leave it out"),
        (
            {"distributed_executor_backend": "ray"},
            {},
            "distributed_executor_backend=ray: a replica is one machine "
            "(command line --distributed-executor-backend); leave it out",
        ),
    ],
)
def test_what_is_rays(args: dict[str, Any], env: dict[str, str], text: str) -> None:
    """Refused, since a replica could only ignore it."""
    with pytest.raises(ConfigError) as raised:
        options(env=env, **args)
    assert [str(problem) for problem in raised.value.problems] == [text]


def test_what_has_no_effect() -> None:
    config = resolved(Args(model_id="org/m"), SERVING_SHUTDOWN_DELAY="10")
    assert without_effect(config) == [
        "shutdown_delay (SERVING_SHUTDOWN_DELAY) has no effect: "
        "Ray sends no more requests to a replica before it ends it"
    ]
