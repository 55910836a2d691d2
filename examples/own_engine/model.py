# SPDX-License-Identifier: Apache-2.0
"""Owns a vLLM engine. The server starts none of its own beside it, unless a request asks for that."""

from vllm import LLM, SamplingParams

from djl_python import Input, Output
from djl_python.async_utils import create_non_stream_output
from djl_python.encode_decode import decode

llm = None


async def handle(inputs: Input) -> Output | None:
    global llm
    if llm is None:
        llm = LLM(model=inputs.get_property("model_id"), enforce_eager=True)
    if inputs.is_empty():
        return None
    payload = decode(inputs, inputs.get_property("Content-Type"))
    (result,) = llm.generate([payload["inputs"]], SamplingParams(temperature=0, max_tokens=60))
    return create_non_stream_output({"generated_text": result.outputs[0].text, "handler": "own_engine"})
