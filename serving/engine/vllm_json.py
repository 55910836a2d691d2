# SPDX-License-Identifier: Apache-2.0
"""JSON of a schema without room for blanks, with which a small model could fill its answer."""

import json
from functools import lru_cache

import xgrammar
from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features

GRAMMAR_BACKENDS = ("auto", "xgrammar")
"""Those of vLLM's back ends for structured outputs that are told a grammar of ours."""


@lru_cache(maxsize=64)
def compact_json(schema: str, writes_grammar: bool) -> dict[str, str]:
    """Fields of vLLM's `StructuredOutputsParams`: compact JSON of this schema.

    Args:
        schema: as JSON.
        writes_grammar: the back end is one of `GRAMMAR_BACKENDS`.

    Raises:
        ValueError: no grammar can be made of it; one line says why.
    """
    made = json.loads(schema)
    if not writes_grammar or has_xgrammar_unsupported_json_features(made):
        compact = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
        return {"json": json.dumps({**made, "x-guidance": compact})}  # for vLLM's other back ends
    try:
        grammar = xgrammar.Grammar.from_json_schema(schema, any_whitespace=False, separators=(",", ":"))
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return {"grammar": str(grammar)}
