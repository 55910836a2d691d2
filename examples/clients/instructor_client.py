# SPDX-License-Identifier: Apache-2.0
"""Instructor, by tools. `python instructor_client.py [URL]`"""

import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

url = sys.argv[1] if sys.argv[1:] else "http://127.0.0.1:8080"
client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="EMPTY"), mode=instructor.Mode.TOOLS)


class Weather(BaseModel):
    """The weather in a city."""

    city: Literal["Oslo", "Rome"]
    degrees: int = Field(ge=0, le=9)


messages = [{"role": "user", "content": "How warm is it?"}]
weather = client.chat.completions.create(model="lmi", messages=messages, response_model=Weather, max_retries=0)
print("tools:", repr(weather))
