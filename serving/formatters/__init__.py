# SPDX-License-Identifier: Apache-2.0
"""Engine output to response bytes, a file per output format."""
