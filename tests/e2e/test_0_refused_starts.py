# SPDX-License-Identifier: Apache-2.0
"""Starts that must fail: a non-zero exit code and one line that says why and what to change."""

import socket

import pytest

from tests.e2e.refusals import refused

pytestmark = pytest.mark.engine


def test_unknown_flag() -> None:
    code, lines = refused("--demo", "--max-modle-len", "10")
    assert code == 2
    assert lines == ["lmi: error: unknown flag --max-modle-len; did you mean --max-model-len?; see lmi serve --help"]


def test_missing_model_directory() -> None:
    code, (line,) = refused("/no/such/model")
    assert code == 1
    assert "directory '/no/such/model' does not exist" in line
    assert "give a model" in line


def test_model_that_cannot_be_fetched() -> None:
    code, (line,) = refused("nobody/nothing", "--port", "0", HF_HUB_OFFLINE="1")
    assert code == 1
    assert line == (
        "lmi: error: the model nobody/nothing: is not in the cache, and the Hub cannot be reached; check the network, "
        "HF_ENDPOINT and HF_HUB_OFFLINE"
    )


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, (line,) = refused("--demo", "--port", str(port))
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert "--port" in line


def test_value_of_the_wrong_type() -> None:
    code, lines = refused("--demo", "--max-num-seqs", "many", "--dtype", "float17")
    assert code == 1
    assert len(lines) == 2
    assert any("max_rolling_batch_size='many'" in line and "--max-num-seqs" in line for line in lines)
    assert any("dtype='float17'" in line and "bfloat16" in line for line in lines)


def test_engine_that_refuses(tmp_path) -> None:
    code, (line,) = refused("--demo", "--port", "0", "--max-model-len", "999999")
    assert code == 1
    assert "999999" in line
    assert "max_model_len" in line


def test_model_that_loads_too_long() -> None:
    code, (line,) = refused("--demo", "--port", "0", OPTION_MODEL_LOADING_TIMEOUT="1")
    assert code == 1
    assert line == (
        "lmi: error: the model is not loaded after 1 s; raise option.model_loading_timeout, or look above for what it "
        "waits for"
    )


def test_unknown_quantization() -> None:
    code, (line,) = refused("--demo", "--port", "0", OPTION_QUANTIZE="fp9")
    assert code == 1
    assert "Unknown quantization method: fp9. Must be one of [" in line
    assert "option.quantize" in line
