# SPDX-License-Identifier: Apache-2.0
"""The `handle` of one `model.py`, called as LMI's vLLM service calls it."""

import os
from collections.abc import Mapping
from typing import Any

from djl_python.async_utils import _reason, create_non_stream_output
from djl_python.inputs import Input
from djl_python.service_loader import ModelService, has_function_in_module, load_model_service


class CustomHandlerError(Exception):
    """A custom handler failed; here for code that names it, `CustomHandlerService` answers instead of raising it."""


class CustomHandlerService:
    """Loads a `model.py`, and calls its `handle`.

    Attributes:
        custom_handler: the loaded file; None where there is none, or where it has no `handle`.
        initialized: there is a handler.
    """

    def __init__(self, properties: Mapping[str, Any]):
        """Loads `model.py` from the property `model_dir`, or from the working directory.

        Raises:
            Exception: whatever the file raised.
        """
        model_dir = str(properties.get("model_dir") or ".")
        self.custom_handler: ModelService | None = None
        if os.path.isfile(os.path.join(model_dir, "model.py")):
            service = load_model_service(model_dir, "model.py", -1)
            if has_function_in_module(service.module, "handle"):
                self.custom_handler = service
        self.initialized = self.custom_handler is not None

    async def handle(self, inputs: Input) -> Any:
        """What the handler returns; None without one, and an answer of code 424 where it fails."""
        if self.custom_handler is None:
            return None
        try:
            return await self.custom_handler.invoke_handler_async("handle", inputs)
        except Exception as error:
            return create_non_stream_output("", error=f"Custom handler failed: {_reason(error)}", code=424)
