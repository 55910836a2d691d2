# SPDX-License-Identifier: Apache-2.0
"""Outlines on an engine of this program's own: text, output types, an adapter. `python outlines_offline.py [MODEL]`"""

import sys
from typing import Literal

import outlines
from outlines.types import Regex
from pydantic import BaseModel
from vllm import SamplingParams

from serving import offline


class Verdict(BaseModel):
    sure: bool
    choice: Literal["yes", "no"]


name = sys.argv[1] if sys.argv[1:] else "demo"
# Left alone, a small model fills JSON with blanks.
compact = {"backend": "xgrammar", "disable_any_whitespace": True}
params = SamplingParams(temperature=0, max_tokens=40)
with offline.load(name, enable_lora=True, max_model_len=512, structured_outputs_config=compact) as ours:
    model = outlines.from_vllm_offline(ours.llm)
    print("text:", model("What is LoRA?", sampling_params=params))
    print("json:", Verdict.model_validate_json(model("Is water wet?", Verdict, sampling_params=params)))
    print("choice:", model("Is water wet?", Literal["yes", "no"], sampling_params=params))
    print("regex:", model("Which day?", Regex("2026-0[1-9]-[12][0-9]"), sampling_params=params))
    print("batch:", model.batch(["What is LoRA?", "What is vLLM?"], sampling_params=params))
    print("adapter:", ours("What is LoRA?", lora="pirate", temperature=0, max_tokens=40))
