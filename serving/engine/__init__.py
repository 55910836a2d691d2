# SPDX-License-Identifier: Apache-2.0
"""The only folder that imports vLLM. The rest of the server sees `base.py`."""
