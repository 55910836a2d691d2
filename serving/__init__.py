# SPDX-License-Identifier: Apache-2.0
"""LMI Server: AWS LMI's serving contract on vLLM's async engine. `docs/architecture.md` is the map."""
