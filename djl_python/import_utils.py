# SPDX-License-Identifier: Apache-2.0
"""Optional packages for models of the user's own: each name is the module, or None where it is not installed.

A package is imported when its name is first asked for.
"""

from importlib import import_module
from typing import Any

_MODULES = {"joblib": "joblib", "cloudpickle": "cloudpickle", "skops_io": "skops.io", "xgboost": "xgboost"}

__all__ = [
    "cloudpickle",  # noqa: F822  # the names of packages come from __getattr__
    "is_cloudpickle_available",
    "is_joblib_available",
    "is_skops_available",
    "is_xgboost_available",
    "joblib",  # noqa: F822
    "skops_io",  # noqa: F822
    "xgboost",  # noqa: F822
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _optional(_MODULES[name])


def is_joblib_available() -> bool:
    """The package joblib is installed."""
    return _optional("joblib") is not None


def is_cloudpickle_available() -> bool:
    """The package cloudpickle is installed."""
    return _optional("cloudpickle") is not None


def is_skops_available() -> bool:
    """The package skops is installed."""
    return _optional("skops.io") is not None


def is_xgboost_available() -> bool:
    """The package xgboost is installed."""
    return _optional("xgboost") is not None


def _optional(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        return None
