# SPDX-License-Identifier: Apache-2.0
"""The Python that runs users' code, and the packages that the model's `requirements.txt` asks for."""

from serving.user_packages.python import UserPython, prepare

__all__ = ["UserPython", "prepare"]
