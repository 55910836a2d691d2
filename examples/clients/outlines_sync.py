# SPDX-License-Identifier: Apache-2.0
"""Outlines on a server: text, output types, a stream. `python outlines_sync.py [URL]`"""

import sys
from enum import Enum
from typing import Literal

import openai
import outlines
from outlines.types import CFG, Regex
from pydantic import BaseModel, Field

url = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8080"
model = outlines.from_vllm(openai.OpenAI(base_url=f"{url}/v1", api_key="EMPTY"), "lmi")


class Character(BaseModel):
    name: str = Field(max_length=8)
    strength: int = Field(ge=1, le=9)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


print("text:", model("What is LoRA?", max_tokens=40))
# Left alone, a small model fills JSON with blanks.
answer = model("Create a character.", Character, max_tokens=80, frequency_penalty=2)
print("json:", Character.model_validate_json(answer))
print("choice:", model("Which one?", Literal["Oslo", "Rome"], max_tokens=10))
print("enum:", model("Which one?", Colour, max_tokens=10))
print("regex:", model("Which day?", Regex("2026-0[1-9]-[12][0-9]"), max_tokens=20))
print("grammar:", model("Add up.", CFG('start: NUMBER "+" NUMBER\nNUMBER: /[1-9]/'), max_tokens=10))
print("several:", model("What is vLLM?", max_tokens=40, n=2))
print("stream:", "".join(model.stream("What is streaming?", max_tokens=60)))
print("stream of a choice:", "".join(model.stream("Which one?", Literal["Oslo", "Rome"], max_tokens=10)))
print("adapter:", model("What is LoRA?", max_tokens=40, extra_body={"model": "pirate"}))
