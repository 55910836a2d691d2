# SPDX-License-Identifier: Apache-2.0
"""A built-in entry point of LMI's that this server has no module for; importing it says what to use instead."""

raise ImportError(
    "djl_python.sklearn_handler does not exist on this server. Instead, load the model in a model.py of your own: "
    "model_fn(model_dir) with predict_fn(input, model), or handle(inputs)."
)
