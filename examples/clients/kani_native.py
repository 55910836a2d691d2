# SPDX-License-Identifier: Apache-2.0
"""kani with prompts that it builds itself, sent as token ids. `python kani_native.py MODEL [URL]`

Without URL the engine starts `vllm serve MODEL` itself: `lmi install-vllm-shim DIR`, with DIR first on the PATH.
"""

import asyncio
import sys
from urllib.parse import urlsplit

from kani import Kani
from kani.ext.vllm import VLLMServerEngine

model, *address = sys.argv[1:]
url = urlsplit(address[0]) if address else None
running = {"use_managed_server": False, "vllm_host": url.hostname, "vllm_port": url.port} if url else {}


async def main() -> None:
    engine = VLLMServerEngine(
        model, max_context_size=2048, vllm_args={"max_model_len": 2048, "enforce_eager": True}, **running
    )
    try:
        ai = Kani(engine)
        print("chat:", await ai.chat_round_str("What is LoRA?"))
        print("again:", await ai.chat_round_str("What is vLLM?"))
    finally:
        await engine.close()


asyncio.run(main())
