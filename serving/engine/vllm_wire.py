# SPDX-License-Identifier: Apache-2.0
"""Arrays in what the engine's process sends, made cheaper in this one.

A token with its log-probabilities is three arrays of a few bytes, and vLLM makes each of them in five calls
(docs/decisions/0018). Put in place by `vllm_engine.py`.
"""

from typing import Any

import numpy as np
from msgspec import msgpack
from vllm.v1.serial_utils import MsgpackDecoder


def make_cheaper(decoder: MsgpackDecoder) -> None:
    """Has `decoder` make arrays with one call; everything else, and what it refuses, is as before.

    Args:
        decoder: of the engine's client, before or after its first message.
    """
    if not decoder.share_mem:
        return
    others, types = decoder.dec_hook, decoder.decoder.type

    def array(kind: type, data: Any) -> Any:
        if kind is not np.ndarray:
            return others(kind, data)
        dtype, shape, content = data
        if isinstance(content, int):
            content = decoder.aux_buffers[content]
        return np.ndarray(shape, dtype, content)

    decoder.decoder = msgpack.Decoder(types, ext_hook=decoder.ext_hook, dec_hook=array)
