# SPDX-License-Identifier: Apache-2.0
"""LMI's `config.properties`, addresses, workers, devices, and LMCache's variables."""

from pathlib import Path
from typing import Any, ClassVar

import pytest

from serving import demo
from serving.config.addresses import Address
from serving.config.host import Host
from serving.config.resolve import ResolvedConfig, resolve
from serving.errors import ConfigError

pytestmark = pytest.mark.pure
GIB = 1024**3


def resolved(tmp_path: Path, files: dict[str, str] | None = None, host: dict[str, Any] | None = None, **env: str):
    here = Host(**{"device_count": 1, "root": tmp_path, "memory_bytes": 100 * GIB, **(host or {})})
    for name, text in (files or {}).items():
        here.path(name).parent.mkdir(parents=True, exist_ok=True)
        here.path(name).write_text(text)
    argv = env.pop("argv", "org/m").split()
    return resolve(env, argv, here, demo.MODEL_DIR)


def refused(tmp_path: Path, **given: Any) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as raised:
        resolved(tmp_path, **given)
    return [(problem.kind, problem.text) for problem in raised.value.problems]


def warned(config: ResolvedConfig) -> str:
    return "\n".join(config.warnings)


class TestFile:
    FILES: ClassVar = {
        "/djl/conf/config.properties": "job_queue_size=7\nmodel_store=store",
        "/djl/store/config.json": "{}",
    }

    def test_home(self, tmp_path: Path) -> None:
        config = resolved(tmp_path, self.FILES, MODEL_SERVER_HOME="/djl", argv="")
        assert (config.server.job_queue_size, config.model_dir) == (7, tmp_path / "djl/store")

    def test_flag_and_variable_are_stronger(self, tmp_path: Path) -> None:
        files = {**self.FILES, "/a/config.json": "{}"}
        config = resolved(tmp_path, files, MODEL_SERVER_HOME="/djl", SERVING_JOB_QUEUE_SIZE="9", argv="-s /a")
        assert (config.server.job_queue_size, config.model_dir) == (9, tmp_path / "a")

    def test_places_that_are_not_there(self, tmp_path: Path) -> None:
        assert refused(tmp_path, argv="-f /nope org/m") == [("NOT_FOUND", "/nope is not a file")]
        assert refused(tmp_path, MODEL_SERVER_HOME="/nope") == [
            ("NOT_FOUND", "MODEL_SERVER_HOME=/nope is not a directory")
        ]

    def test_models_by_name(self, tmp_path: Path) -> None:
        config = resolved(tmp_path, {"/m/config.json": "{}"}, SERVING_LOAD_MODELS="[llm:v1]=/m", argv="")
        assert (config.model_name, config.model_dir) == ("llm", tmp_path / "m")
        assert refused(tmp_path, SERVING_LOAD_MODELS="a=/m,b=/n", argv="") == [
            ("UNSUPPORTED", "load_models names 2 models: a=/m, b=/n")
        ]

    def test_all_and_nothing(self, tmp_path: Path) -> None:
        files = {"/s/config.json": "{}"}
        env = {"SERVING_MODEL_STORE": "/s", "argv": ""}
        assert resolved(tmp_path, files, SERVING_LOAD_MODELS="all", **env).model_dir == tmp_path / "s"
        assert refused(tmp_path, files=files, SERVING_LOAD_MODELS="none", **env)[0][0] == "NOT_FOUND"
        assert resolved(tmp_path, SERVING_LOAD_MODELS="n=org/x").options.model_id == "org/m", "the argument is stronger"
        assert resolved(tmp_path, SERVING_LOAD_MODELS="org/a.b", argv="").options.model_id == "org/a.b"

    def test_keys_of_others(self, tmp_path: Path) -> None:
        """The server's file has no say about the model, and the model's file none about the server."""
        config = resolved(
            tmp_path, {"/c.properties": "option.dtype=fp16\nmax_model_len=5"}, argv="-f /c.properties org/m"
        )
        assert config.options.dtype == "auto"
        assert "max_model_len" not in config.vllm_arguments
        assert warned(config).count("it is none of the server's keys") == 2
        files = {"/m/config.json": "{}", "/m/serving.properties": "inference_address=http://1.2.3.4:80"}
        config = resolved(tmp_path, files, argv="/m")
        assert config.vllm_arguments["port"] == 8080
        assert "a model does not say where the server listens" in warned(config)

    def test_model_beside_its_file(self, tmp_path: Path) -> None:
        files = {"/s/weights/config.json": "{}", "/s/serving.properties": "option.model_id=weights"}
        assert resolved(tmp_path, files, argv="-s /s").options.model_id == "/s/weights"

    def test_unknown_variable(self, tmp_path: Path) -> None:
        assert "unknown option job_queu_size (SERVING_JOB_QUEU_SIZE); did you mean job_queue_size?" in warned(
            resolved(tmp_path, SERVING_JOB_QUEU_SIZE="7")
        )
        assert "max_idle_time (SERVING_MAX_IDLE_TIME) has no effect: there is one engine" in warned(
            resolved(tmp_path, SERVING_MAX_IDLE_TIME="7")
        )


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "values"),
        [
            ("http://0.0.0.0:8080", {"host": "0.0.0.0", "port": 8080}),
            ("http://localhost", {"host": "localhost", "port": 80}),
            ("http://[::1]:81/", {"host": "::1", "port": 81}),
            ("unix:/tmp/s.sock", {"uds": "/tmp/s.sock"}),
        ],
    )
    def test_address(self, tmp_path: Path, address: str, values: dict[str, Any]) -> None:
        config = resolved(tmp_path, SERVING_INFERENCE_ADDRESS=address, SERVING_MANAGEMENT_ADDRESS=address)
        assert config.vllm_arguments.items() >= values.items()
        assert config.warnings == []

    def test_stronger_sources(self, tmp_path: Path) -> None:
        env = {"SERVING_INFERENCE_ADDRESS": "http://0.0.0.0:81", "SAGEMAKER_BIND_TO_PORT": "82"}
        assert resolved(tmp_path, **env).vllm_arguments["port"] == 82
        config = resolved(tmp_path, **env, argv="org/m --port 83 --host h")
        assert (config.vllm_arguments["host"], config.vllm_arguments["port"]) == ("h", 83)

    @pytest.mark.parametrize(
        "address", ["0.0.0.0:80", "http://a:b", "ftp://a:1", "http://a:70000", "http://", "https://a:1"]
    )
    def test_no_address(self, tmp_path: Path, address: str) -> None:
        ((kind, text),) = refused(tmp_path, SERVING_INFERENCE_ADDRESS=address)
        assert text.startswith(f"inference_address={address!r}")
        assert kind == ("NOT_FOUND" if address.startswith("https") else "VALIDATION")

    def test_host_of_the_image(self, tmp_path: Path) -> None:
        """The weakest of all: any address that somebody gave wins."""
        arguments = resolved(tmp_path, LMI_HOST="0.0.0.0", SAGEMAKER_BIND_TO_PORT="82").vllm_arguments
        assert (arguments["host"], arguments["port"]) == ("0.0.0.0", 82)
        env = {"LMI_HOST": "0.0.0.0", "SERVING_INFERENCE_ADDRESS": "http://127.0.0.1:8080"}
        assert resolved(tmp_path, **env).vllm_arguments["host"] == "127.0.0.1"
        assert resolved(tmp_path, LMI_HOST="").vllm_arguments["host"] == "127.0.0.1"

    def test_port_beside_a_socket(self, tmp_path: Path) -> None:
        config = resolved(tmp_path, SERVING_INFERENCE_ADDRESS="unix:/s", argv="org/m --port 9000")
        assert (config.vllm_arguments["port"], "uds" in config.vllm_arguments) == (9000, False)

    def test_two_sockets(self, tmp_path: Path) -> None:
        """Paths are absolute before the server enters the model directory."""
        env = {"SERVING_INFERENCE_ADDRESS": "unix:/i.sock", "SERVING_MANAGEMENT_ADDRESS": "unix:/a/../m.sock"}
        config = resolved(tmp_path, **env)
        assert (config.vllm_arguments["uds"], config.management) == ("/i.sock", Address("", 0, "/m.sock"))
        assert config.warnings == []

    @pytest.mark.parametrize(
        ("inference", "management", "are_tls"),
        [
            (None, "https://0.0.0.0:8443", (True, True)),
            ("http://0.0.0.0:8080", "https://0.0.0.0:8443", (False, True)),
            ("https://0.0.0.0:8080", "http://127.0.0.1:8081", (True, False)),
            ("https://0.0.0.0:8080", "unix:/m.sock", (True, False)),
        ],
    )
    def test_one_certificate(
        self, tmp_path: Path, inference: str | None, management: str, are_tls: tuple[bool, bool]
    ) -> None:
        """The scheme says where it is used; inference without an address has it as in `vllm serve`."""
        env = {"SERVING_CERTIFICATE_FILE": "/c.pem", "SERVING_MANAGEMENT_ADDRESS": management}
        env |= {"SERVING_INFERENCE_ADDRESS": inference} if inference else {}
        config = resolved(tmp_path, {"/c.pem": ""}, **env)
        assert config.management is not None
        assert (config.is_tls, config.management.is_tls) == are_tls

    @pytest.mark.parametrize("moved", [{"SAGEMAKER_BIND_TO_PORT": "8081"}, {}])
    def test_moved_onto_each_other(self, tmp_path: Path, moved: dict[str, str]) -> None:
        """Management is not put on the public port in silence."""
        env = {
            "SERVING_INFERENCE_ADDRESS": "http://0.0.0.0:8080",
            "SERVING_MANAGEMENT_ADDRESS": "http://0.0.0.0:8081",
            **moved,
        }
        ((kind, text),) = refused(tmp_path, argv="org/m" if moved else "org/m --port 8081", **env)
        assert kind == "CONFLICT"
        assert "moves inference" in text


class TestRequestId:
    MARKER: ClassVar = {"/opt/ml/.sagemaker_infra/endpoint-metadata.json": "{}"}

    def test_on_sagemaker(self, tmp_path: Path) -> None:
        config = resolved(tmp_path, self.MARKER)
        assert config.server.request_id_header_key == "X-Amzn-SageMaker-Inference-Id"

    def test_elsewhere(self, tmp_path: Path) -> None:
        assert resolved(tmp_path).server.request_id_header_key == "x-request-id"

    def test_set(self, tmp_path: Path) -> None:
        config = resolved(tmp_path, self.MARKER, SERVING_REQUEST_ID_HEADER_KEY="x-mine")
        assert config.server.request_id_header_key == "x-mine"


class TestFrontEnd:
    """LMI's names of what vLLM's front end has as well."""

    def test_origins(self, tmp_path: Path) -> None:
        config = resolved(
            tmp_path, SERVING_CORS_ALLOWED_ORIGIN="https://a, https://b", SERVING_CORS_ALLOWED_METHODS="*"
        )
        assert config.vllm_arguments["allowed_origins"] == ["https://a", "https://b"]
        assert config.vllm_arguments["allowed_methods"] == ["*"]
        assert config.warnings == []

    def test_certificate(self, tmp_path: Path) -> None:
        files = {"/c.pem": "", "/k.pem": ""}
        address = {"SERVING_INFERENCE_ADDRESS": "https://0.0.0.0:8443"}
        env = {"SERVING_CERTIFICATE_FILE": "/c.pem", "SERVING_PRIVATE_KEY_FILE": "/k.pem", **address}
        config = resolved(tmp_path, files, **env)
        assert (config.vllm_arguments["ssl_certfile"], config.vllm_arguments["port"]) == ("/c.pem", 8443)
        missing = {**env, "SERVING_CERTIFICATE_FILE": "/nope.pem"}
        assert refused(tmp_path, files=files, **missing) == [("NOT_FOUND", "ssl_certfile='/nope.pem' is not a file")]

    def test_keystore(self, tmp_path: Path) -> None:
        assert refused(tmp_path, SERVING_KEYSTORE="/k.p12") == [("UNSUPPORTED", "keystore is not read")]


class TestCopies:
    @pytest.mark.parametrize(
        ("keys", "devices", "copies", "warnings"),
        [
            ("maxWorkers=4\noption.tensor_parallel_degree=1", 4, 4, 0),
            ("maxWorkers=4\noption.tensor_parallel_degree=2", 4, 2, 1),
            ("gpu.maxWorkers=2\nmaxWorkers=4\noption.tensor_parallel_degree=1", 2, 2, 0),
            ("cpu.maxWorkers=2", 1, 1, 0),
            ("minWorkers=2\nmaxWorkers=2", 0, 1, 1),
            ("maxWorkers=4\noption.tensor_parallel_degree=1\noption.enable_lora=true", 1, 1, 0),
            ("maxWorkers=2\noption.tensor_parallel_degree=1\nload_on_devices=*", 2, 1, 1),
            ("maxWorkers=2\noption.tensor_parallel_degree=1\noption.data_parallel_size=1", 1, 1, 0),
        ],
    )
    def test_copies(self, tmp_path: Path, keys: str, devices: int, copies: int, warnings: int) -> None:
        files = {"/s/serving.properties": f"option.model_id=org/m\n{keys}"}
        config = resolved(tmp_path, files, {"device_count": devices}, argv="-s /s")
        assert config.vllm_arguments.get("data_parallel_size", 1) == copies
        assert len(config.warnings) == warnings, config.warnings

    def test_mixture_of_experts(self, tmp_path: Path) -> None:
        files = {"/m/config.json": '{"num_local_experts": 8}', "/m/serving.properties": "maxWorkers=2"}
        config = resolved(tmp_path, files, {"device_count": 2}, argv="/m --tensor-parallel-size 1")
        assert "maxWorkers=2 has no effect: the model is a mixture of experts" in warned(config)

    def test_configuration_of_the_model_that_is_strange(self, tmp_path: Path) -> None:
        files = {"/m/config.json": '{"text_config": null, "num_experts": "8"}', "/m/serving.properties": "maxWorkers=2"}
        config = resolved(tmp_path, files, {"device_count": 2}, argv="/m --tensor-parallel-size 1")
        assert config.vllm_arguments["data_parallel_size"] == 2

    @pytest.mark.parametrize("keys", ["minWorkers=3\nmaxWorkers=2", "maxWorkers=0"])
    def test_contradiction(self, tmp_path: Path, keys: str) -> None:
        files = {"/s/serving.properties": f"option.model_id=org/m\n{keys}"}
        ((kind, _),) = refused(tmp_path, files=files, argv="-s /s")
        assert kind == "CONFLICT"


class TestLmcache:
    MODEL: ClassVar = {"/m/config.json": "{}", "/m/model.safetensors": "x" * 1000}

    def test_sizes(self, tmp_path: Path) -> None:
        files = {**self.MODEL, "/m/serving.properties": "option.lmcache_auto_config=true"}
        host = {"has_lmcache": True, "disk_bytes": 50 * GIB, "device_count": 2}
        config = resolved(tmp_path, files, host, argv="/m")
        assert config.vllm_arguments["kv_transfer_config"] == {
            "kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"
        }  # fmt: skip
        assert config.environment["LMCACHE_MAX_LOCAL_CPU_SIZE"] == "40"
        assert config.environment["LMCACHE_MAX_LOCAL_DISK_SIZE"] == "20"
        assert config.environment["PYTHONHASHSEED"] == "0"

    def test_file(self, tmp_path: Path) -> None:
        files = {**self.MODEL, "/m/serving.properties": "option.lmcache_config_file=c.yaml", "/m/c.yaml": ""}
        config = resolved(tmp_path, files, {"has_lmcache": True}, argv="/m")
        assert config.environment["LMCACHE_CONFIG_FILE"] == str(tmp_path / "m/c.yaml")
        assert refused(tmp_path, files=files, argv="/m") == [("UNSUPPORTED", "LMCache is not installed")]

    def test_no_weights(self, tmp_path: Path) -> None:
        ((kind, text),) = refused(tmp_path, OPTION_LMCACHE_AUTO_CONFIG="true", host={"has_lmcache": True})
        assert (kind, "weights" in text) == ("NOT_FOUND", True)
