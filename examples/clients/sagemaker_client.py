# SPDX-License-Identifier: Apache-2.0
"""boto3 on a SageMaker endpoint that runs this server. `python sagemaker_client.py ENDPOINT_NAME [ENDPOINT_URL]`

Credentials and region are taken from where boto3 looks for them; ENDPOINT_URL is for an endpoint that is not AWS's.
"""

import json
import sys

import boto3

name, *address = sys.argv[1:]
client = boto3.client("sagemaker-runtime", endpoint_url=address[0] if address else None)


def request(**body: object) -> dict[str, str]:
    return {"EndpointName": name, "ContentType": "application/json", "Body": json.dumps(body)}


question = {"inputs": "What is LoRA?", "parameters": {"max_new_tokens": 40}}
answer = client.invoke_endpoint(**request(**question))
print("text:", json.load(answer["Body"])["generated_text"])

messages = [{"role": "user", "content": "What is vLLM?"}]
answer = client.invoke_endpoint(**request(messages=messages, max_tokens=40))
print("chat:", json.load(answer["Body"])["choices"][0]["message"]["content"])

answer = client.invoke_endpoint_with_response_stream(**request(**question, stream=True))
lines = b"".join(event["PayloadPart"]["Bytes"] for event in answer["Body"]).splitlines()
print("stream:", "".join(json.loads(line)["token"]["text"] for line in lines if line))
