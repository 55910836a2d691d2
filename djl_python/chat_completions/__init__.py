# SPDX-License-Identifier: Apache-2.0
"""Chat requests as LMI reads them."""
