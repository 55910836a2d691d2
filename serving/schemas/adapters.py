# SPDX-License-Identifier: Apache-2.0
"""The bodies of vLLM's two routes for adapters (`vllm.entrypoints.serve.lora.protocol`)."""

from pydantic import BaseModel, Field


class UnloadAdapter(BaseModel):
    """`POST /v1/unload_lora_adapter`."""

    lora_name: str = Field(min_length=1)


class LoadAdapter(UnloadAdapter):
    """`POST /v1/load_lora_adapter`.

    Attributes:
        lora_path: where it comes from, as `src` of LMI's route.
        load_inplace: it may take the place of one of the same name.
        is_3d_lora_weight: as `is_3d_weight` of `Loras.load`.
    """

    lora_path: str = Field(min_length=1)
    load_inplace: bool = False
    is_3d_lora_weight: bool = False
