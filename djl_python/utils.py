# SPDX-License-Identifier: Apache-2.0
"""Small helpers that `model.py` files import by LMI's name for this module."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SAGEMAKER_SIGNATURES = {
    "model_fn": [["model_dir"]],
    "input_fn": [["request_body", "content_type"], ["request_body", "request_content_type"]],
    "predict_fn": [["input_data", "model"]],
    "output_fn": [["prediction", "accept"], ["prediction", "response_content_type"]],
}
"""The parameter names that LMI knows SageMaker's functions by; this server goes by their order alone."""

_LARGEST_ID = 999999


class IdCounter:
    """Counts from 0 to 999999, then from 0 again."""

    def __init__(self) -> None:
        self.id = 0

    def get_id(self) -> int:
        """The next id, without taking it."""
        return self.id

    def next_id(self) -> int:
        """Takes an id."""
        taken = self.id
        self.id = 0 if taken >= _LARGEST_ID else taken + 1
        return taken

    def reset(self) -> None:
        """Begins at 0 again."""
        self.id = 0


def is_streaming(parameters: Mapping[str, Any]) -> bool:
    """The client asked for a stream."""
    return bool(parameters.get("stream"))


def is_best_of(parameters: Mapping[str, Any]) -> bool:
    """The best of several sequences is asked for."""
    return (parameters.get("best_of") or 1) > 1


def is_beam_search(parameters: Mapping[str, Any]) -> bool:
    """Beams are asked for."""
    return (parameters.get("num_beams") or 1) > 1


def is_multiple_sequences(parameters: Mapping[str, Any]) -> bool:
    """Several sequences are asked for."""
    return (parameters.get("n") or 1) > 1


def wait_till_generation_finished(parameters: Mapping[str, Any]) -> bool:
    """What to show is known only at the end of the generation."""
    return is_best_of(parameters) or is_beam_search(parameters) or is_multiple_sequences(parameters)


def find_model_file(model_dir: str, extensions: Sequence[str]) -> str | None:
    """The path of the one file with one of these extensions; None where there is none.

    Raises:
        ValueError: there are several.
    """
    endings = tuple(f".{extension.lstrip('.')}" for extension in extensions)
    found = sorted(name for name in os.listdir(model_dir) if name.endswith(endings))
    if len(found) > 1:
        raise ValueError(f"Several model files in {model_dir}: {', '.join(found)}")
    return os.path.join(model_dir, found[0]) if found else None


def get_sagemaker_function(model_dir: str, func_name: str) -> Callable[..., Any] | None:
    """The function of `model.py` with one of SageMaker's names and its usual parameter names; None for all else.

    A file that does not load counts as one without functions.
    """
    import inspect

    from djl_python.service_loader import load_model_service

    try:
        function = getattr(load_model_service(model_dir, "model.py").module, func_name)
        parameters = list(inspect.signature(function).parameters)
    except Exception:
        return None
    return function if parameters in SAGEMAKER_SIGNATURES.get(func_name, []) else None
