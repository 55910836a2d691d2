# SPDX-License-Identifier: Apache-2.0
"""A built-in entry point of LMI's that this server has no module for; importing it says what to use instead."""

raise ImportError(
    "djl_python.huggingface does not exist on this server. Instead, leave it as the value of option.entryPoint, which "
    "selects the rolling-batch handler; a handler of your own generates through djl_python.engine."
)
