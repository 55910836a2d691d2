# SPDX-License-Identifier: Apache-2.0
"""The model's options as an object, for what LMI's functions take as `configs`."""
