# SPDX-License-Identifier: Apache-2.0
"""The options under the name that LMI's Hugging Face handler gives them."""

from djl_python.properties_manager.properties import Properties


class HuggingFaceProperties(Properties):
    """No different here, where one engine serves every model."""
