# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own client. `python openai_client.py [URL]`"""

import sys

from openai import NotFoundError, OpenAI

url = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8080"
client = OpenAI(base_url=f"{url}/v1", api_key="EMPTY")
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "What is LoRA?"}]

answer = client.chat.completions.create(model=model, messages=messages, max_tokens=40)
print("chat:", answer.choices[0].message.content)

completion = client.completions.create(model=model, prompt="What is vLLM?", max_tokens=40)
print("completion:", completion.choices[0].text)

stream = client.chat.completions.create(model=model, messages=messages, max_tokens=40, stream=True)
print("stream:", "".join(chunk.choices[0].delta.content or "" for chunk in stream))

# The model needs to know nothing of tools, and the server no parser for them.
city = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
weather = {"type": "function", "function": {"name": "get_weather", "parameters": city}}
answer = client.chat.completions.create(
    model=model, messages=messages, tools=[weather], tool_choice="required", parallel_tool_calls=False
)
call = answer.choices[0].message.tool_calls[0].function
print("tool:", call.name, call.arguments)

response = client.responses.create(model=model, input="What is a KV cache?", max_output_tokens=60)
print("response:", response.output_text)

try:
    client.embeddings.create(model=model, input="What is LoRA?")
except NotFoundError as error:
    print("embeddings:", error.status_code)
