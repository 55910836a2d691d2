# SPDX-License-Identifier: Apache-2.0
"""LMI's vLLM service by its usual name; the server's default handler does the work."""
