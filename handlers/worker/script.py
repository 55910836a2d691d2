# SPDX-License-Identifier: Apache-2.0
"""A SageMaker script, `model_fn` with `predict_fn`, as one function that takes LMI's `Input`. Used by `runner.py`."""

from types import ModuleType
from typing import Any

from djl_python import Input, Output
from djl_python.encode_decode import decode, encode
from handlers.worker.protocol import Start


class Script:
    """The handler that a script stands for, under the name that calls use.

    Arguments go by position, so that any parameter names do.
    """

    def __init__(self, module: ModuleType, start: Start):
        self._module = module
        self._directory = start.directory
        self._model: Any = None
        setattr(self, start.handler, self._handle)

    def _handle(self, inputs: Input) -> Output | None:
        """The start-up call loads the model; each other one is input, prediction, output."""
        if inputs.is_empty():
            self._model = self._module.model_fn(self._directory)
            return None
        content_type = inputs.get_property("Content-Type")
        read = getattr(self._module, "input_fn", None)
        data = read(inputs.get_as_bytes(), content_type) if read else decode(inputs, content_type)
        prediction = self._module.predict_fn(data, self._model)
        accept = inputs.get_property("Accept")
        accept = "application/json" if accept in (None, "", "*/*") else accept
        write = getattr(self._module, "output_fn", None)
        output = Output()
        if write is None:
            encode(output, prediction, accept)
            return output
        written = write(prediction, accept)
        if isinstance(written, tuple):
            written, accept = written
        return output.add_property("Content-Type", accept).add(written)
