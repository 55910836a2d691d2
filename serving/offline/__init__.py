# SPDX-License-Identifier: Apache-2.0
"""The engine without a server: `load` and `wrap` for scripts, `load_async` for programs with an event loop.

::

    from serving import offline

    model = offline.load("org/name", max_model_len="16k", enable_lora=True)
    model("What is LoRA?", max_tokens=40)                       # a text
    model(["One.", "Two."], offline.Regex(r"[0-9]+"))           # a list of texts
    model([{"role": "user", "content": "Who?"}], Character)     # an object of that pydantic class
    model.generate("What is LoRA?", n=3)                        # every sample, with tokens and finish reasons

Importing this module imports neither vLLM nor torch; loading a model does. `docs/offline.md` is the guide.
"""

from serving.errors import ConfigError, PayloadError, ServingError
from serving.offline.async_model import AsyncModel, load_async
from serving.offline.model import Model, load, wrap
from serving.offline.output_types import Grammar, Regex
from serving.offline.samples import IncompleteOutput, Piece, Sample

__all__ = [
    "AsyncModel",
    "ConfigError",
    "Grammar",
    "IncompleteOutput",
    "Model",
    "PayloadError",
    "Piece",
    "Regex",
    "Sample",
    "ServingError",
    "load",
    "load_async",
    "wrap",
]
