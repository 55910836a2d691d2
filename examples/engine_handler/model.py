# SPDX-License-Identifier: Apache-2.0
"""Answers `{"question": ...}` with the model that the server has loaded; every other body is the default handler's."""

from djl_python import Input, Output, engine
from djl_python.async_utils import create_non_stream_output, create_stream_chunk_output
from djl_python.encode_decode import decode


async def handle(inputs: Input) -> Output | None:
    if inputs.is_empty():
        return None
    try:
        payload = decode(inputs, inputs.get_property("Content-Type"))
    except ValueError:  # whose refusal is the default handler's
        return None
    if not isinstance(payload, dict) or "question" not in payload:
        return None
    prompt = {"inputs": payload["question"], "parameters": {"max_new_tokens": 60}}
    if payload.get("stream"):
        return words(prompt)
    answer = await engine.generate(prompt, adapter=payload.get("voice"))
    return create_non_stream_output({"answer": answer["generated_text"]})


async def words(prompt: dict):
    async for line in engine.stream(prompt):
        yield create_stream_chunk_output({"text": line["token"]["text"]}, last_chunk=False)
