# SPDX-License-Identifier: Apache-2.0
"""The engine without a server: texts, values of a type, adapters. `python examples/offline.py [MODEL]`."""

import sys
from typing import Literal

from pydantic import BaseModel

from serving import offline


class Verdict(BaseModel):
    sure: bool
    choice: Literal["yes", "no"]


with offline.load(sys.argv[1] if len(sys.argv) > 1 else "demo", enable_lora=True, max_model_len=512) as model:
    questions = ["What is LoRA?", "What is vLLM?"]
    for answer in model(questions, temperature=0, max_tokens=40):
        print(answer)
    print(model("Is water wet?", Verdict, temperature=0, max_tokens=40))
    print(model(questions[0], lora="pirate", temperature=0, max_tokens=40))
