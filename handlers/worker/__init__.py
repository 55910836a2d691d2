# SPDX-License-Identifier: Apache-2.0
"""The process that runs the user's `model.py`, and how ours talks to it.

`protocol.py` is what both sides say, `child.py` and `runner.py` are the worker's side, `process.py` and `supervisor.py`
ours.
"""
