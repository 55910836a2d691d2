# SPDX-License-Identifier: Apache-2.0
"""Request bodies to typed requests, a file per payload schema."""
