# SPDX-License-Identifier: Apache-2.0
"""The formatters and handlers of one `model.py`, and how they are called."""

import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from types import ModuleType
from typing import Any

from djl_python.service_loader import find_decorated_function, forget, has_function_in_module, load_model_service

_MARKS = {
    "input_formatter": "is_input_formatter",
    "output_formatter": "is_output_formatter",
    "prediction_handler": "is_prediction_handler",
    "init_handler": "is_init_handler",
}
_SAGEMAKER_NAMES = {
    "input_formatter": "input_fn",
    "output_formatter": "output_fn",
    "prediction_handler": "predict_fn",
    "init_handler": "model_fn",
}


class CustomFormatterError(Exception):
    """A function of the user's failed.

    Attributes:
        original_exception: what it raised; the cause of this error.
    """

    def __init__(self, message: str, original_exception: BaseException | None = None):
        super().__init__(message)
        self.original_exception = original_exception
        self.__cause__ = original_exception


class CustomFormatterHandler:
    """The functions that one `model.py` offers; each is None where the file has none.

    Attributes:
        is_sagemaker_script: the functions were found by SageMaker's names (`model_fn`, `input_fn`, `predict_fn`,
            `output_fn`), which happens only where no function is marked.
    """

    def __init__(self) -> None:
        self.input_formatter: Callable[..., Any] | None = None
        self.output_formatter: Callable[..., Any] | None = None
        self.prediction_handler: Callable[..., Any] | None = None
        self.init_handler: Callable[..., Any] | None = None
        self.is_sagemaker_script = False
        self._module: ModuleType | None = None

    def load_formatters(self, model_dir: str, namespace: str | None = None) -> None:
        """Executes the directory's `model.py`, once, and looks for functions; without the file there are none.

        A ValueError of the file's own is logged and counts as no functions, as in LMI.

        Args:
            model_dir: the folder of `model.py`.
            namespace: begins the private name of the module.

        Raises:
            CustomFormatterError: the file does not load.
        """
        if not os.path.isfile(os.path.join(model_dir, "model.py")):
            return
        try:
            module = load_model_service(model_dir, "model.py", -1, namespace).module
        except ValueError as error:
            import logging

            logging.getLogger(__name__).warning("model.py in %s offers no functions: %s", model_dir, error)
        except Exception as error:
            raise CustomFormatterError(f"Failed to load model.py in {model_dir}: {_told(error)}", error) from error
        else:
            self._module = module
            self._find(module)

    def unload(self) -> None:
        """Forgets the module, so that nothing but its functions keeps it alive."""
        if self._module is not None:
            forget(self._module.__name__)
            self._module = None

    def apply_input_formatter(self, decoded_payload: Any, **kwargs: Any) -> Any:
        """What the input formatter makes of a payload, or the payload itself; a coroutine function's is to be awaited.

        Args:
            decoded_payload: for `input_fn` the body's bytes.
            **kwargs: those that the formatter has a parameter for are passed on; `content_type` is the second argument
                of `input_fn`.

        Raises:
            CustomFormatterError: it failed.
        """
        if self.input_formatter is None:
            return decoded_payload
        if self.is_sagemaker_script:
            arguments: tuple[Any, ...] = (decoded_payload, kwargs.get("content_type"))
            kwargs = {}
        else:
            arguments = (decoded_payload,)
        return _call("Custom input formatter", self.input_formatter, *arguments, **kwargs)

    def apply_output_formatter(self, output: Any, **kwargs: Any) -> Any:
        """What the output formatter makes of an answer, or the answer itself; a coroutine function's is to be awaited.

        Args:
            output: the engine's answer.
            **kwargs: `accept` is the second argument of `output_fn`; nothing else is passed on.

        Raises:
            CustomFormatterError: it failed.
        """
        if self.output_formatter is None:
            return output
        arguments = (output, kwargs.get("accept")) if self.is_sagemaker_script else (output,)
        return _call("Custom output formatter", self.output_formatter, *arguments)

    async def apply_output_formatter_streaming_raw(self, response: AsyncIterable[Any]) -> AsyncGenerator[Any]:
        """Yields what the output formatter makes of each chunk of an answer.

        Raises:
            CustomFormatterError: it failed.
        """
        async for chunk in response:
            formatted = self.apply_output_formatter(chunk)
            yield await formatted if hasattr(formatted, "__await__") else formatted

    def apply_init_handler(self, model_dir: str, **kwargs: Any) -> Any:
        """The model that the init handler loads; None without one.

        Raises:
            CustomFormatterError: it failed.
        """
        if self.init_handler is None:
            return None
        return _call("Custom init handler", self.init_handler, model_dir, **kwargs)

    def apply_prediction_handler(self, X: Any, model: Any, **kwargs: Any) -> Any:
        """What the prediction handler predicts; None without one.

        Raises:
            CustomFormatterError: it failed.
        """
        if self.prediction_handler is None:
            return None
        return _call("Custom prediction handler", self.prediction_handler, X, model, **kwargs)

    def _find(self, module: ModuleType) -> None:
        found = {role: find_decorated_function(module, mark) for role, mark in _MARKS.items()}
        if not any(found.values()):
            present = {role: name for role, name in _SAGEMAKER_NAMES.items() if has_function_in_module(module, name)}
            found = {role: getattr(module, name) for role, name in present.items()}
            self.is_sagemaker_script = bool(found)
        for role, function in found.items():
            setattr(self, role, function)


def accepted(function: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those keyword arguments that a function has a place for; all of them where that can't be known."""
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return kwargs
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return kwargs
    names = {one.name for one in parameters if one.kind is not one.POSITIONAL_ONLY}
    return {name: value for name, value in kwargs.items() if name in names}


def _call(role: str, function: Callable[..., Any], *arguments: Any, **kwargs: Any) -> Any:
    try:
        return function(*arguments, **accepted(function, kwargs))
    except Exception as error:
        raise CustomFormatterError(f"{role} execution failed: {_told(error)}", error) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
