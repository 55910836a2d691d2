# SPDX-License-Identifier: Apache-2.0
"""huggingface_hub's client, by the server's address. `python huggingface_client.py [URL]`"""

import sys

from huggingface_hub import InferenceClient

url = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8080"
client = InferenceClient(model=url)

print("text:", client.text_generation("What is LoRA?", max_new_tokens=40))
stream = client.text_generation("What is vLLM?", max_new_tokens=40, stream=True, details=True)
print("stream:", "".join(event.token.text for event in stream if not event.token.special))
answer = client.text_generation("What is LoRA?", max_new_tokens=40, details=True)
print("details:", answer.details.finish_reason, answer.details.generated_tokens)
messages = [{"role": "user", "content": "What is streaming?"}]
print("chat:", client.chat_completion(messages, max_tokens=60).choices[0].message.content)
