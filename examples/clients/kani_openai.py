# SPDX-License-Identifier: Apache-2.0
"""kani on a server that speaks OpenAI's API. `python kani_openai.py MODEL [URL]`

Without URL the engine starts `vllm serve MODEL` itself: `lmi install-vllm-shim DIR`, with DIR first on the PATH.
"""

import asyncio
import sys
from urllib.parse import urlsplit

from kani import Kani, ai_function
from kani.ext.vllm import VLLMOpenAIEngine

model, *address = sys.argv[1:]
url = urlsplit(address[0]) if address else None
running = {"use_managed_server": False, "vllm_host": url.hostname, "vllm_port": url.port} if url else {}


class Weatherman(Kani):
    @ai_function()
    def get_weather(self) -> str:
        """Tells the weather."""
        return "It rains."


async def main() -> None:
    engine = VLLMOpenAIEngine(model, max_context_size=2048, vllm_args={"max_model_len": 2048}, max_tokens=80, **running)
    try:
        print("chat:", await Kani(engine).chat_round_str("What is LoRA?"))
        print("stream:", "".join([token async for token in Kani(engine).chat_round_stream("What is vLLM?")]))
        weatherman = Weatherman(engine, chat_history=[])
        async for message in weatherman.full_round("Does it rain?", max_function_rounds=1, tool_choice="required"):
            calls = [call.function.name for call in message.tool_calls or []]
            print(f"{message.role.value}:", calls or message.text)
            if message.role.value == "function":
                break
    finally:
        await engine.close()


asyncio.run(main())
