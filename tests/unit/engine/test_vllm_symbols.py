# SPDX-License-Identifier: Apache-2.0
"""vLLM's internals that we build on are where we import them from, and take what we give them."""

import dataclasses
import inspect

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.lora.request import LoRARequest
from vllm.renderers.base import BaseRenderer
from vllm.renderers.hf import HfRenderer
from vllm.v1.engine.async_llm import AsyncLLM

from serving.config.vllm_arguments import arguments
from serving.engine import vllm_app, vllm_engine
from serving.offline.loading import NO_FLAGS

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (vllm_app.init_app_state, ["engine_client", "state", "args", "supported_tasks"]),
        (vllm_app.register_api_routers, ["args", "app", "supported_tasks", "model_config"]),
        (vllm_app.attach_endpoint_plugins, ["app", "supported_tasks"]),
        (vllm_app.init_exception_handler, ["app"]),
        (vllm_app.init_entrypoints_middleware, ["args", "app", "supported_tasks"]),
        (vllm_app.sagemaker_standards_bootstrap, ["app"]),
        (vllm_app.validate_parsed_serve_args, ["args"]),
        (vllm_app.validate_api_server_args, ["args"]),
        (vllm_app.get_uvicorn_log_config, ["args"]),
        (vllm_app.configure_logging_from_args, ["args"]),
        (AsyncLLM.add_lora, ["self", "lora_request"]),
        (AsyncLLM.pin_lora, ["self", "lora_id"]),
        (AsyncLLM.remove_lora, ["self", "lora_id"]),
        (vllm_engine.propagate_flash_late_interaction, ["args", "engine_args"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_signature(function, parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters


@pytest.mark.parametrize("kind", vllm_engine._OPENAI)
def test_request_models(kind: str) -> None:
    model, serving, method = vllm_engine._OPENAI[kind]
    bodies = {
        "completion": {"prompt": "x"},
        "chat": {"messages": [{"role": "user", "content": "x"}]},
        "embedding": {"input": "x"},
    }
    assert model.model_validate(bodies[kind])
    assert "serving_" in serving
    assert method.startswith(("create_", "__call__"))


def test_table_of_adapters() -> None:
    """vLLM's own way to load one goes through the engine's client, which is our gate."""
    source = inspect.getsource(OpenAIServingModels)
    for part in (
        "self.lora_requests: dict[str, LoRARequest]",
        "self.lora_id_counter = ",
        "self.engine_client.add_lora(",
    ):
        assert part in source
    assert list(inspect.signature(OpenAIServingModels.is_base_model).parameters) == ["self", "model_name"]
    assert LoRARequest("a", 1, "/a", is_3d_lora_weight=True).lora_path == "/a"


def test_tokenizer() -> None:
    """Formatters run in threads, so the tokenizer they get must be safe there: HF's renderer makes its own so."""
    assert "self.renderer = " in inspect.getsource(AsyncLLM.__init__)
    assert "self.tokenizer = tokenizer" in inspect.getsource(BaseRenderer.__init__)
    assert "maybe_make_thread_pool(" in inspect.getsource(HfRenderer.__init__)


@pytest.mark.parametrize("name", ["generate", "encode", "abort", "shutdown", "errored", "reset_mm_cache", "add_lora"])
def test_engine_client(name: str) -> None:
    assert hasattr(AsyncLLM, name)


def test_keywords_without_flags() -> None:
    """What an engine takes and `vllm serve` has no flag for."""
    fields = {field.name for field in dataclasses.fields(AsyncEngineArgs) if not field.name.startswith("_")}
    assert fields - set(arguments()) - {"model_weights"} == NO_FLAGS
