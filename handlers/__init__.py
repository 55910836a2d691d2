# SPDX-License-Identifier: Apache-2.0
"""What to do with one request. `resolve.py` chooses the handler, `base.py` is the contract."""
