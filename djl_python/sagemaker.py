# SPDX-License-Identifier: Apache-2.0
"""A built-in entry point of LMI's that this server has no module for; importing it says what to use instead."""

raise ImportError(
    "djl_python.sagemaker does not exist on this server. Instead, put model_fn, input_fn, predict_fn and output_fn "
    "into the model.py of the model directory, where the server calls them."
)
