# SPDX-License-Identifier: Apache-2.0
"""Calls of functions by models that have no parser for them: schema, prompt, recognition. Knows neither HTTP nor vLLM.

`serving/engine/vllm_tools.py` makes a tool parser of vLLM's kind of it.
"""
