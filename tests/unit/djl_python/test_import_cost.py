# SPDX-License-Identifier: Apache-2.0
"""What importing the package costs, what it offers, and what it says about modules that it does not have."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[3]

LIGHT = {
    "djl_python": "Input Output PairList Session SessionManager __version__",
    "djl_python.inputs": "Input Properties header_case",
    "djl_python.outputs": "Output _JSONEncoder Frame decode_frame",
    "djl_python.encode_decode": "decode encode decode_csv encode_csv",
    "djl_python.async_utils": "create_non_stream_output create_stream_chunk_output handle_streaming_response "
    "_extract_lora_adapter _create_output",
    "djl_python.input_parser": "input_formatter init_handler prediction_handler output_formatter "
    "SAGEMAKER_ADAPTER_IDENTIFIER_HEADER parse_input_with_formatter ParsedInput format_input parse_text_inputs_params "
    "parse_adapters add_server_maintained_params get_batch_start_id get_req_id_counter "
    "parse_lmi_default_request_rolling_batch",
    "djl_python.output_formatter": "output_formatter input_formatter init_handler prediction_handler "
    "TextGenerationOutput RequestOutput get_generated_text get_sequence_details get_details_dict get_output_formatter "
    "sse_response_formatter adapt_legacy_output_formatter _json_output_formatter _jsonlines_output_formatter "
    "_sse_output_formatter _json_chat_output_formatter _jsonlines_chat_output_formatter _sse_chat_output_formatter",
    "djl_python.request": "Request",
    "djl_python.properties_manager.properties": "Properties",
    "djl_python.properties_manager.hf_properties": "HuggingFaceProperties",
    "djl_python.request_io": "Token Sequence RequestInput TextInput RequestOutput TextGenerationOutput",
    "djl_python.session_manager": "SessionManager Session UUID_PATTERN",
    "djl_python.session_utils": "create_session close_session get_session session_non_stream_output_formatter "
    "HEADER_SAGEMAKER_SESSION_ID HEADER_SAGEMAKER_CLOSED_SESSION_ID",
    "djl_python.pair_list": "PairList",
    "djl_python.test_model": "TestHandler create_json_request extract_output_as_string decode_encoded_output_binary",
    "djl_python.np_util": "to_nd_list from_nd_list",
    "djl_python.streaming_utils": "StreamingUtils HFStreamer",
    "djl_python.service_loader": "load_model_service ModelService has_function_in_module find_decorated_function "
    "get_annotated_function is_valid_dir",
    "djl_python.custom_formatter_handling": "CustomFormatterHandler CustomFormatterError",
    "djl_python.custom_handler_service": "CustomHandlerService CustomHandlerError",
    "djl_python.adapter_manager_mixin": "AdapterManagerMixin",
    "djl_python.adapter_formatter_mixin": "AdapterFormatterMixin",
    "djl_python.utils": "IdCounter is_streaming is_beam_search is_best_of is_multiple_sequences find_model_file "
    "wait_till_generation_finished get_sagemaker_function SAGEMAKER_SIGNATURES",
    "djl_python.import_utils": "is_joblib_available",
    "djl_python.sm_log_filter": "SMLogFilter",
    "djl_python.engine": "generate stream generate_sync stream_sync EngineError",
    "djl_python._bridge": "Bridge Response connect current loop",
    "djl_python.lmi_vllm.vllm_async_service": "handle service VLLMHandler register_adapter update_adapter "
    "unregister_adapter",
    "djl_python.chat_completions.chat_utils": "is_chat_completions_request",
    "djl_python.chat_completions.chat_properties": "",
    "djl_python.multimodal.utils": "fetch_image fetch_image_from_url load_image_from_base64",
    "djl_python.three_p.three_p_utils": "parse_3p_request",
}

HEAVY = ["numpy", "PIL", "torch", "transformers", "pydantic", "requests", "vllm", "msgspec", "serving", "handlers"]

REFUSED = {
    "huggingface": "option.entryPoint, which selects the rolling-batch handler",
    "sklearn_handler": "model_fn(model_dir) with predict_fn(input, model)",
    "xgboost_handler": "model_fn(model_dir) with predict_fn(input, model)",
    "sagemaker": "put model_fn, input_fn, predict_fn and output_fn into the model.py",
    "tensorrt_llm": "djl_python.lmi_vllm.vllm_async_service serves the model with vLLM",
}


def modules_after(statement: str) -> set[str]:
    """The names of the modules that a fresh interpreter holds after a statement and did not hold before."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


@pytest.mark.parametrize("names", ["djl_python", ", ".join(LIGHT)], ids=["package", "every module"])
def test_only_the_standard_library_loads(names: str) -> None:
    loaded = {name.partition(".")[0] for name in modules_after(f"import {names}")}
    assert "djl_python" in loaded
    assert loaded.isdisjoint(HEAVY)
    assert loaded - sys.stdlib_module_names == {"djl_python"}


def test_the_package_leaves_out_what_is_slow_in_the_standard_library() -> None:
    slow = {"asyncio", "inspect", "tempfile", "logging", "uuid", "dataclasses", "pathlib", "pickle", "shutil"}
    assert modules_after("import djl_python").isdisjoint(slow)


@pytest.mark.parametrize("module", LIGHT)
def test_names(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in LIGHT[module].split() if not hasattr(found, name)] == []


@pytest.mark.parametrize("module", [name for name in LIGHT if hasattr(importlib.import_module(name), "__all__")])
def test_every_listed_name_exists(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in found.__all__ if not hasattr(found, name)] == []


@pytest.mark.parametrize("name", REFUSED)
def test_refused_modules(name: str) -> None:
    with pytest.raises(ImportError) as caught:
        importlib.import_module(f"djl_python.{name}")
    assert str(caught.value).startswith(f"djl_python.{name} does not exist on this server. Instead, ")
    assert REFUSED[name] in str(caught.value)


@pytest.mark.parametrize("module", ["djl_python.chat_completions.chat_properties", "djl_python.import_utils"])
def test_names_that_do_not_exist(module: str) -> None:
    with pytest.raises(ImportError, match="cannot import name 'absent'"):
        exec(f"from {module} import absent")
