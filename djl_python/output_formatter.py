# SPDX-License-Identifier: Apache-2.0
"""Where `model.py` files import the output formatter's decorator from, and the classes it is typed with."""

from djl_python.marks import init_handler, input_formatter, output_formatter, prediction_handler
from djl_python.request_io import RequestInput, RequestOutput, Sequence, TextGenerationOutput, TextInput, Token

__all__ = [
    "RequestInput",
    "RequestOutput",
    "Sequence",
    "TextGenerationOutput",
    "TextInput",
    "Token",
    "init_handler",
    "input_formatter",
    "output_formatter",
    "prediction_handler",
]
