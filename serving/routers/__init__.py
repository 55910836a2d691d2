# SPDX-License-Identifier: Apache-2.0
"""HTTP in and out, a file per route family, no logic."""
