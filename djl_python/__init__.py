# SPDX-License-Identifier: Apache-2.0
"""The names that a `model.py` written for LMI imports.

Importing this package, or any module of it that handlers commonly use, needs the standard library only: NumPy, Pillow,
pydantic and the rest load inside the functions that need them. Nothing here knows the server; what runs in a handler
reaches the server's engine through `djl_python.engine`.
"""

from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.pair_list import PairList
from djl_python.session_manager import Session, SessionManager

__all__ = ["Input", "Output", "PairList", "Session", "SessionManager", "__version__"]

__version__ = "0.36.0"
"""The LMI release whose contract for handlers this package keeps."""
