# SPDX-License-Identifier: Apache-2.0
"""A built-in entry point of LMI's that this server has no module for; importing it says what to use instead."""

raise ImportError(
    "djl_python.tensorrt_llm does not exist on this server. Instead, djl_python.lmi_vllm.vllm_async_service "
    "serves the model with vLLM: set option.entryPoint to it, or leave that unset."
)
