# SPDX-License-Identifier: Apache-2.0
"""LangChain's chat model. `python langchain_client.py [URL]`"""

import sys
from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

url = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8080"
model = ChatOpenAI(base_url=f"{url}/v1", api_key="EMPTY", model="lmi", max_tokens=80)
# Left alone, a small model fills JSON with blanks.
terse = ChatOpenAI(base_url=f"{url}/v1", api_key="EMPTY", model="lmi", max_tokens=80, frequency_penalty=2)

print("chat:", model.invoke("What is LoRA?").content)
print("stream:", "".join(chunk.content for chunk in model.stream("What is vLLM?")))


@tool
def get_weather(city: Literal["Oslo", "Rome"]) -> str:
    """Tells the weather in a city."""
    return f"It rains in {city}."


class Weather(BaseModel):
    """The weather in a city."""

    city: Literal["Oslo", "Rome"]
    is_raining: bool


with_tools = model.bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
call = with_tools.invoke("Does it rain?").tool_calls[0]
print("tool:", call["name"], call["args"], get_weather.invoke(call["args"]))
for method in ("json_schema", "function_calling"):
    print(f"{method}:", repr(terse.with_structured_output(Weather, method=method).invoke("Does it rain?")))
