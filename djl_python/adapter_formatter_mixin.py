# SPDX-License-Identifier: Apache-2.0
"""Adapters that bring formatters of their own in a `model.py` beside their weights."""

import os

from djl_python.adapter_manager_mixin import AdapterManagerMixin, _name
from djl_python.custom_formatter_handling import CustomFormatterError, CustomFormatterHandler
from djl_python.inputs import Input


class AdapterFormatterMixin(AdapterManagerMixin):
    """Loads an adapter's code before its weights, and forgets both together.

    Attributes:
        adapter_code_registry: the functions of each adapter that has code, by the adapter's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.adapter_code_registry: dict[str, CustomFormatterHandler] = {}

    def load_adapter_custom_code(self, adapter_name: str, adapter_path: str) -> CustomFormatterHandler:
        """Executes the adapter's `model.py`, as a module that no other adapter shares.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it does not load.
        """
        path = os.path.join(adapter_path, "model.py")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"Adapter {adapter_name} has no custom code: there is no {path}")
        functions = CustomFormatterHandler()
        try:
            functions.load_formatters(adapter_path, namespace=f"ns_{adapter_name}")
        except CustomFormatterError as error:
            raise ValueError(f"Failed to load custom code for adapter {adapter_name}: {error}") from error
        self.adapter_code_registry[adapter_name] = functions
        return functions

    def unload_adapter_custom_code(self, adapter_name: str) -> bool:
        """Forgets the adapter's functions; False where it has none."""
        functions = self.adapter_code_registry.pop(adapter_name, None)
        if functions is not None:
            functions.unload()
        return functions is not None

    def get_adapter_formatter_handler(self, adapter_name: str) -> CustomFormatterHandler | None:
        """The adapter's functions; None where it has none."""
        return self.adapter_code_registry.get(adapter_name)

    async def _register(self, inputs: Input) -> None:
        name, src = _name(inputs), str(inputs.get_property("src"))
        before = self.adapter_code_registry.pop(name, None)
        try:
            if has_code := os.path.isfile(os.path.join(src, "model.py")):
                self.load_adapter_custom_code(name, src)
            await super()._register(inputs)
        except BaseException:
            self._restore(name, before)
            raise
        inputs.properties["has_custom_code"] = "true" if has_code else "false"

    async def _unregister(self, inputs: Input) -> None:
        await super()._unregister(inputs)
        self.unload_adapter_custom_code(_name(inputs))

    def _restore(self, name: str, functions: CustomFormatterHandler | None) -> None:
        """Takes back what a registration that failed changed."""
        self.unload_adapter_custom_code(name)
        if functions is not None:
            self.adapter_code_registry[name] = functions
