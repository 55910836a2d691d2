# SPDX-License-Identifier: Apache-2.0
"""LiteLLM, as an OpenAI-compatible server and as a SageMaker endpoint. `python litellm_client.py [URL]`"""

import sys

import litellm
from litellm import ContextWindowExceededError, completion

litellm.suppress_debug_info = True  # no advice between the lines
url = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8080"
openai = {"model": "openai/lmi", "api_base": f"{url}/v1", "api_key": "EMPTY", "max_tokens": 40}
sagemaker = {
    "model": "sagemaker/lmi",
    "sagemaker_base_url": f"{url}/invocations",
    "aws_region_name": "us-east-1",
    "aws_access_key_id": "EMPTY",
    "aws_secret_access_key": "EMPTY",
    "max_tokens": 40,
}
messages = [{"role": "user", "content": "What is LoRA?"}]

print("openai:", completion(messages=messages, **openai).choices[0].message.content)
stream = completion(messages=messages, stream=True, **openai)
print("stream:", "".join(chunk.choices[0].delta.content or "" for chunk in stream))
print("sagemaker:", completion(messages=messages, **sagemaker).choices[0].message.content)
try:
    completion(messages=[{"role": "user", "content": "word " * 10_000}], **openai)
except ContextWindowExceededError as error:
    print("long prompt:", type(error).__name__)
