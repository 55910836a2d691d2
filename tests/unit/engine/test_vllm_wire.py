# SPDX-License-Identifier: Apache-2.0
"""What the cheaper decoder makes of a message is what vLLM's makes of it."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import LogprobsLists, LogprobsTensors
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from serving.engine import vllm_wire

pytestmark = pytest.mark.vllm

ROWS = {"one": 1, "none": 0, "apart from the message": 4096}


def decoders(**options: Any) -> list[MsgpackDecoder]:
    """vLLM's, and the cheaper one."""
    made = [MsgpackDecoder(EngineCoreOutputs, **options) for _ in range(2)]
    vllm_wire.make_cheaper(made[1])
    return made


def sent(*outputs: EngineCoreOutput) -> list[bytearray]:
    return [
        bytearray(part) for part in MsgpackEncoder().encode(EngineCoreOutputs(outputs=list(outputs), timestamp=1.0))
    ]


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_log_probabilities(rows: int) -> None:
    arrays = (
        np.arange(2 * rows, dtype=np.int32).reshape(rows, 2),
        np.linspace(-9, 0, 2 * rows, dtype=np.float32).reshape(rows, 2),
        np.ones(rows, dtype=np.int64),
    )
    message = sent(EngineCoreOutput("r", [5], LogprobsLists(*arrays)), EngineCoreOutput("s", [6]))
    assert len(message) == (4 if rows > 1 else 1)
    for decoder in decoders():
        first, second = decoder.decode(message).outputs
        assert first.new_logprobs is not None
        for expected, made in zip(arrays, first.new_logprobs, strict=False):
            assert (made.dtype, made.shape, made.flags.writeable) == (expected.dtype, expected.shape, True)
            assert (made == expected).all()
        assert (second.request_id, second.new_logprobs) == ("s", None)


def test_everything_else() -> None:
    tensors = LogprobsTensors(torch.ones((2, 2), dtype=torch.int32), torch.zeros((2, 2)), torch.ones(2))
    message = sent(EngineCoreOutput("r", [5], new_prompt_logprobs_tensors=tensors, kv_transfer_params={"a": [1]}))
    plain, cheap = [decoder.decode(message).outputs[0] for decoder in decoders()]
    assert cheap.kv_transfer_params == plain.kv_transfer_params == {"a": [1]}
    assert torch.equal(cheap.new_prompt_logprobs_tensors.logprobs, plain.new_prompt_logprobs_tensors.logprobs)


def test_refusals() -> None:
    """Code in a message is run by neither."""
    output = ["r", [5], *[None] * 6, {"a": msgspec.msgpack.Ext(1, b"x")}]
    message = msgspec.msgpack.encode([0, [output]])
    for decoder in decoders():
        with pytest.raises(NotImplementedError, match="not supported"):
            decoder.decode(message)


def test_copies_where_vllm_copies() -> None:
    decoder = MsgpackDecoder(EngineCoreOutputs, share_mem=False)
    before = decoder.decoder
    vllm_wire.make_cheaper(decoder)
    assert decoder.decoder is before
