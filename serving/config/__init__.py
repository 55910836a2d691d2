# SPDX-License-Identifier: Apache-2.0
"""From files, variables and flags to one `ResolvedConfig`: pure, and without vLLM or HTTP.

`resolve.resolve` is the door; `options.py` and `vllm_arguments.json` are the only places that know an option.
"""
