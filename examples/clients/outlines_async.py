# SPDX-License-Identifier: Apache-2.0
"""Outlines on a server, asynchronously: several prompts at once, and a stream. `python outlines_async.py [URL]`"""

import asyncio
import sys
from typing import Literal

import openai
import outlines

url = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8080"
model = outlines.from_vllm(openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="EMPTY"), "lmi")


async def main() -> None:
    questions = ("What is LoRA?", "What is vLLM?", "What is a KV cache?")
    for answer in await asyncio.gather(*(model(question, max_tokens=60) for question in questions)):
        print("text:", answer)
    print("choice:", await model("Which one?", Literal["Oslo", "Rome"], max_tokens=10))
    print("stream:", "".join([piece async for piece in model.stream("What is streaming?", max_tokens=60)]))


asyncio.run(main())
