# SPDX-License-Identifier: Apache-2.0
"""What the files of an adapter must be, fault by fault; and that vLLM refuses the same configurations and names."""

import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any

import pytest

from serving import demo
from serving.engine.adapter_files import AdapterInvalid, BaseShapes, TensorName, base_shapes, check, parse_name

ADAPTERS = demo.MODEL_DIR / "adapters"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TRAINED = " The adapter was trained on lmi-demo."
PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"
GONE = object()
"""In place of a configuration's value: the key is left out."""
Shapes = dict[str, list[int]]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A copy of a good adapter, to be broken."""
    return Path(shutil.copytree(ADAPTERS / "pirate", tmp_path / "pirate"))


@pytest.fixture(scope="module")
def base() -> BaseShapes:
    shapes = base_shapes(demo.MODEL_DIR)
    assert shapes is not None
    return shapes


def shapes_in(path: Path) -> Shapes:
    """Names and shapes of a safetensors file."""
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    header = json.loads(path.read_bytes()[8 : 8 + length])
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def write_safetensors(path: Path, shapes: Shapes, dtype: str = "BF16", num_bytes: int = 2) -> None:
    """A whole file of zeros."""
    end = 0
    header: dict[str, Any] = {}
    for name, shape in shapes.items():
        begin, end = end, end + prod(shape) * num_bytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    write_raw(path, json.dumps(header).encode(), bytes(end))


def write_raw(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def reshape(adapter: Path, shapes: Shapes) -> None:
    """Changes tensors of the adapter; an empty shape takes one out."""
    path = adapter / WEIGHTS
    write_safetensors(path, {name: shape for name, shape in (shapes_in(path) | shapes).items() if shape})


def pair(module: str, rank: int = 8, num_inputs: int = 128, num_outputs: int = 128) -> Shapes:
    """The tensors of one module of an adapter."""
    stem = f"{PREFIX}{module}.lora_"
    return {f"{stem}A.weight": [rank, num_inputs], f"{stem}B.weight": [num_outputs, rank]}


def configure(adapter: Path, changes: dict[str, Any]) -> None:
    values = json.loads((adapter / CONFIG).read_text()) | changes
    (adapter / CONFIG).write_text(json.dumps({key: value for key, value in values.items() if value is not GONE}))


def refusal(adapter: Path, base: BaseShapes | None, max_rank: int = 16) -> str:
    with pytest.raises(AdapterInvalid) as raised:
        check(adapter, max_rank, base)
    assert (raised.value.http_status, raised.value.code) == (424, "BadRequestException")
    return str(raised.value)


@pytest.mark.pure
@pytest.mark.parametrize("name", demo.adapter_names())
def test_good_adapter(name: str, base: BaseShapes) -> None:
    check(ADAPTERS / name, 8, base)
    check(ADAPTERS / name, 8, None)


@pytest.mark.pure
@pytest.mark.parametrize("name", ["nope", "x" * 300, CONFIG])
def test_not_a_directory(adapter: Path, base: BaseShapes, name: str) -> None:
    path = adapter / name
    assert refusal(path, base) == f"Only local LoRA models are supported. {path} is not a valid path"


FEATURE = "is set; {} cannot be served, train the adapter without."
CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "PREFIX_TUNING"}, 'peft_type is "PREFIX_TUNING"; it must be LORA.'),
    ({"peft_type": "ADALORA", "r": 99}, 'peft_type is "ADALORA"; it must be LORA.'),
    ({"r": GONE}, "r must be set."),
    ({"lora_alpha": GONE, "target_modules": GONE}, "lora_alpha and target_modules must be set."),
    ({"r": 0}, "r is 0; it must be a positive integer."),
    ({"r": -8}, "r is -8; it must be a positive integer."),
    ({"r": "8"}, 'r is "8"; it must be a positive integer.'),
    ({"r": None}, "r is null; it must be a positive integer."),
    ({"r": 32}, "LoRA rank 32 is greater than max_lora_rank 16. Raise option.max_lora_rank."),
    (
        {"rank_pattern": {"q_proj": 64, "k_proj": 4}},
        "LoRA rank 64 is greater than max_lora_rank 16. Raise option.max_lora_rank.",
    ),
    ({"rank_pattern": {"q_proj": 0}}, 'rank_pattern of "q_proj" is 0; it must be a positive integer.'),
    ({"rank_pattern": {"q_proj": 4.5}}, 'rank_pattern of "q_proj" is 4.5; it must be a positive integer.'),
    ({"rank_pattern": ["q_proj"]}, 'rank_pattern is ["q_proj"]; it must be an object.'),
    ({"lora_alpha": "16"}, 'lora_alpha is "16"; it must be a number.'),
    ({"lora_alpha": None}, "lora_alpha is null; it must be a number."),
    ({"bias": "all"}, 'bias is "all"; it must be "none".'),
    ({"bias": None}, 'bias is null; it must be "none".'),
    ({"modules_to_save": ["lm_head"]}, 'modules_to_save is ["lm_head"]; only classifier and score can be served.'),
    ({"use_dora": True}, "use_dora " + FEATURE.format("DoRA")),
    ({"lora_bias": True}, "lora_bias " + FEATURE.format("LoRA with a bias")),
    ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens " + FEATURE.format("Activated LoRA")),
    ({"layer_replication": [[0, 2]]}, "layer_replication " + FEATURE.format("replicated layers")),
    ({"use_bdlora": {"nblocks": 2}}, "use_bdlora " + FEATURE.format("block-diagonal LoRA")),
    ({"use_qalora": True}, "use_qalora " + FEATURE.format("QALoRA")),
    (
        {"init_lora_weights": "pissa"},
        'init_lora_weights is "pissa", which changes the base model; convert the adapter with PEFT\'s '
        "path_initial_model_for_weight_conversion, or set it to true if the base model is the changed one.",
    ),
    (
        {"use_dora": True, "bias": "all", "r": 32},
        "use_dora is set; DoRA cannot be served, train the adapter without. "
        'bias is "all"; it must be "none". LoRA rank 32 is greater than max_lora_rank 16. Raise option.max_lora_rank.',
    ),
]
GOOD_CONFIGS: list[dict[str, Any]] = [
    {},
    {"peft_type": GONE, "bias": GONE, "init_lora_weights": GONE, "base_model_name_or_path": None},
    {"target_modules": None, "modules_to_save": [], "rank_pattern": None, "alpha_pattern": None},
    {"target_modules": "all-linear", "use_rslora": True, "lora_alpha": 0.5},
    {"modules_to_save": ["score"], "alora_invocation_tokens": None, "layer_replication": None, "use_bdlora": None},
    {"init_lora_weights": "Gaussian", "alpha_pattern": {"q_proj": 4}},
    {"init_lora_weights": False, "rank_pattern": {"not_there": 16}},
    {"a field of tomorrow": {"x": 1}},
]


@pytest.mark.pure
@pytest.mark.parametrize(("changes", "text"), CONFIGS)
def test_faulty_configuration(adapter: Path, base: BaseShapes, changes: dict[str, Any], text: str) -> None:
    configure(adapter, changes)
    assert refusal(adapter, base) == f"{adapter / CONFIG}: {text}"


@pytest.mark.pure
@pytest.mark.parametrize("changes", GOOD_CONFIGS)
def test_good_configuration(adapter: Path, base: BaseShapes, changes: dict[str, Any]) -> None:
    configure(adapter, changes)
    check(adapter, 16, base)


@pytest.mark.pure
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not valid JSON: Expecting value: line 1 column 1 (char 0)."),
        (b'{"r": 8', "not valid JSON: Expecting ',' delimiter: line 1 column 8 (char 7)."),
        (b"\xff", "not valid JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte."),
        (
            b"[" * 100_000,
            "not valid JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string.",
        ),
        (b"[]", "must be a JSON object, not list."),
    ],
)  # fmt: skip
def test_unreadable_configuration(adapter: Path, base: BaseShapes, content: bytes, text: str) -> None:
    (adapter / CONFIG).write_bytes(content)
    assert refusal(adapter, base) == f"{adapter / CONFIG}: {text}"


@pytest.mark.pure
@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_file_that_is_not_there_or_has_no_end(adapter: Path, base: BaseShapes, name: str) -> None:
    path = adapter / name
    text = f"{path}: not found; an adapter is a directory with {CONFIG} and {WEIGHTS}."
    path.unlink()
    assert refusal(adapter, base) == text
    os.mkfifo(path)
    assert refusal(adapter, base) == text


@pytest.mark.pure
def test_file_that_may_not_be_read(adapter: Path, base: BaseShapes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(adapter, base) == f"{adapter / CONFIG}: cannot be read: Permission denied."


def sides(side: str, shape: list[int], module: str = Q) -> Shapes:
    return {f"{PREFIX}{module}.lora_{side}.weight": shape}


@pytest.mark.pure
@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (sides("B", []), f"{Q} has lora_A without lora_B; it needs both."),
        (sides("A", []), f"{Q} has lora_B without lora_A; it needs both."),
        (sides("A", [4, 128]), f"{Q} has rank 4 in lora_A and 8 in lora_B; adapter_config.json says 8."),
        (sides("B", [128, 4]), f"{Q} has rank 8 in lora_A and 4 in lora_B; adapter_config.json says 8."),
        (pair(Q, rank=4), f"{Q} has rank 4 in lora_A and 4 in lora_B; adapter_config.json says 8."),
        (sides("A", [1024]), f"{Q} has the shapes [1024] and [128, 8]; lora_A and lora_B need two dimensions."),
        (
            pair(DOWN, num_inputs=128),
            f"{DOWN} is for 128 inputs and 128 outputs; the base model's has 384 inputs and 128 outputs.",
        ),
        (
            pair(DOWN, num_inputs=384, num_outputs=256),
            f"{DOWN} is for 384 inputs and 256 outputs; the base model's has 384 inputs and 128 outputs.",
        ),
        (
            pair("model.layers.3.mlp.up_proj"),
            "model.layers.3.mlp.up_proj does not exist in the base model.",
        ),
        (
            {f"{PREFIX}{Q}.lora_A.default.weight": [8, 128]},
            f"The tensor {PREFIX}{Q}.lora_A.default.weight is not a LoRA weight; "
            "names must end in lora_A.weight or lora_B.weight.",
        ),
        (
            {
                f"{PREFIX}model.embed_tokens.lora_embedding_A": [8, 700],
                f"{PREFIX}model.embed_tokens.lora_embedding_B": [128, 8],
            },
            "model.embed_tokens is for 700 inputs and 128 outputs; "
            "the base model's has 768 inputs and 128 outputs.",
        ),
        (
            pair(Q, num_inputs=64) | pair(DOWN, num_inputs=64),
            f"{DOWN} is for 64 inputs and 128 outputs; the base model's has 384 inputs and 128 outputs. "
            "One of 2 faults.",
        ),
    ],
)  # fmt: skip
def test_faulty_weights(adapter: Path, base: BaseShapes, shapes: Shapes, text: str) -> None:
    reshape(adapter, shapes)
    assert refusal(adapter, base) == f"{adapter / WEIGHTS}: {text}{TRAINED}"


@pytest.mark.pure
def test_ranks_of_a_pattern(adapter: Path, base: BaseShapes) -> None:
    reshape(adapter, pair(Q, rank=4))
    configure(adapter, {"rank_pattern": {r"layers\.0\.self_attn\.q_proj": 4, "q_proj": 8}})
    check(adapter, 8, base)
    configure(adapter, {"rank_pattern": {"q_proj": 2}, "base_model_name_or_path": None})
    text = (
        f"{adapter / WEIGHTS}: {Q} has rank 4 in lora_A and 4 in lora_B; adapter_config.json says 2. One of 3 faults."
    )
    assert refusal(adapter, base) == text
    configure(adapter, {"rank_pattern": {"q_proj(": 4}})
    check(adapter, 8, base)


@pytest.mark.pure
@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param(pair("lm_head", num_outputs=768), id="a head tied to the embedding"),
        pytest.param(pair("model.layers.0.mlp.experts", rank=32), id="stacked experts, down"),
        pytest.param(pair("model.layers.0.mlp.experts.base_layer", rank=32), id="stacked experts, gate and up"),
        pytest.param(
            {f"{PREFIX}model.layers.0.mlp.experts.w1.lora_{side}.weight": [4, 8, 8] for side in "AB"},
            id="experts that share a side",
        ),
        pytest.param(pair("visual.blocks.9.attn.qkv", num_inputs=7), id="a name that the checkpoint has not"),
        pytest.param({f"{PREFIX}model.embed_tokens.base_layer.weight": [768, 128]}, id="an embedding saved beside"),
        pytest.param({f"{PREFIX}score.weight": [2, 128], f"{PREFIX}score.bias": [2]}, id="a whole head"),
        pytest.param(
            {
                f"{PREFIX}model.embed_tokens.lora_embedding_A": [8, 768],
                f"{PREFIX}model.embed_tokens.lora_embedding_B": [128, 8],
            },
            id="an embedding",
        ),
    ],
)  # fmt: skip
def test_weights_that_vllm_may_serve(adapter: Path, base: BaseShapes, shapes: Shapes) -> None:
    reshape(adapter, shapes)
    check(adapter, 16, base)


@pytest.mark.pure
def test_names_without_prefix(adapter: Path, base: BaseShapes) -> None:
    shapes = shapes_in(adapter / WEIGHTS)
    write_safetensors(adapter / WEIGHTS, {name.removeprefix(PREFIX): shape for name, shape in shapes.items()})
    check(adapter, 8, base)
    write_safetensors(adapter / WEIGHTS, pair(Q, num_inputs=64))
    assert refusal(adapter, base).startswith(f"{adapter / WEIGHTS}: {Q} is for 64 inputs and 128 outputs")


@pytest.mark.pure
def test_names_that_the_checkpoint_has_not(adapter: Path, base: BaseShapes, caplog: pytest.LogCaptureFixture) -> None:
    path = adapter / WEIGHTS
    write_safetensors(path, pair("model.language_model.layers.0.mlp.up_proj", num_inputs=7))
    with caplog.at_level("INFO"):
        check(adapter, 8, base)
    assert caplog.messages == [
        f"{path}: not checked are the sizes of modules that the base model's files do not name: 1, such as "
        "model.language_model.layers.0.mlp.up_proj"
    ]


@pytest.mark.pure
def test_unknown_base(adapter: Path) -> None:
    reshape(adapter, pair(Q, num_inputs=64) | pair("model.layers.99.mlp.up_proj"))
    check(adapter, 8, None)
    reshape(adapter, pair(Q, rank=4))
    assert refusal(adapter, None).startswith(f"{adapter / WEIGHTS}: {Q} has rank 4")


@pytest.mark.pure
def test_transposed_base(adapter: Path) -> None:
    """GPT-2's layers are stored as (inputs, outputs)."""
    base = BaseShapes({"h.0.attn.c_attn": (128, 384)})
    write_safetensors(adapter / WEIGHTS, pair("h.0.attn.c_attn", num_outputs=384))
    assert "h.0.attn.c_attn is for 128 inputs and 384 outputs" in refusal(adapter, base)
    configure(adapter, {"fan_in_fan_out": True})
    check(adapter, 8, base)


@pytest.mark.pure
def test_no_tensors(adapter: Path, base: BaseShapes) -> None:
    write_safetensors(adapter / WEIGHTS, {})
    assert refusal(adapter, base) == f"{adapter / WEIGHTS}: The file has no tensors.{TRAINED}"


def entry(shape: object = (8,), offsets: object = (0, 32), dtype: object = "F32") -> bytes:
    return json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


def cut(num_bytes: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:num_bytes])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def header(content: bytes, num_bytes: int = 32) -> Callable[[Path], None]:
    return lambda path: write_raw(path, content, bytes(num_bytes))


@pytest.mark.pure
@pytest.mark.parametrize(
    "damage",
    [
        cut(0),
        cut(7),
        cut(1000),
        cut(-1),
        append,
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
        lambda path: path.write_bytes(b"\xff" * 100),
        header(b"{}}", 0),
        header(b"[]", 0),
        header(b'{"x": 1}'),
        header(entry(shape=[-8])),
        header(entry(shape=[9])),
        header(entry(offsets=[32, 0])),
        header(entry(offsets=[0, 32, 64])),
        header(entry(dtype=4)),
        header(entry(offsets=[1, 33]), 33),
    ],
)
def test_damaged_weights(adapter: Path, base: BaseShapes, damage: Callable[[Path], None]) -> None:
    path = adapter / WEIGHTS
    damage(path)
    assert refusal(adapter, base).startswith(f"{path}: not a whole safetensors file: ")


@pytest.mark.pure
def test_base_shapes(base: BaseShapes) -> None:
    assert len(base.layers) == 29
    assert base.layers[DOWN] == (128, 384)
    assert base.layers["model.embed_tokens"] == (768, 128)
    assert base.layers["model.norm"] is None


@pytest.mark.pure
def test_base_in_shards(tmp_path: Path) -> None:
    files = {"a.weight": "1.safetensors", "b.weight": "2.safetensors"}
    for name, file in files.items():
        write_safetensors(tmp_path / file, {name: [4, 2]})
    write_safetensors(tmp_path / "other.safetensors", {"c.weight": [4, 2]})
    assert base_shapes(tmp_path) == BaseShapes({"a": (4, 2), "b": (4, 2), "c": (4, 2)})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert base_shapes(tmp_path) == BaseShapes({"a": (4, 2), "b": (4, 2)})


@pytest.mark.pure
def test_base_that_is_quantized_in_part(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "1.safetensors", {"l.0.q.weight": [4, 2], "l.1.experts.up": [3, 4, 2]})
    write_safetensors(tmp_path / "2.safetensors", {"l.1.q.weight": [4, 1], "l.1.q.scale": [4, 2]}, "U8", 1)
    assert base_shapes(tmp_path) == BaseShapes({"l.0.q": (4, 2), "l.1.q": None, "l.1.experts": None})


@pytest.mark.pure
def test_base_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tells_nothing = "no safetensors file on disk tells the shape of a layer"
    index = tmp_path / "model.safetensors.index.json"
    (gguf := tmp_path / "model.gguf").touch()
    assert (base_shapes(Path("org/name")), base_shapes(gguf), base_shapes(tmp_path)) == (None, None, None)
    write_safetensors(tmp_path / "model.safetensors", {"a.qweight": [4, 2]}, "I32", 4)
    assert base_shapes(tmp_path) is None
    index.write_text("[]")
    assert base_shapes(tmp_path) is None
    index.write_text('{"weight_map": {"a.weight": "gone.safetensors"}}')
    assert base_shapes(tmp_path) is None
    index.unlink()
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    assert base_shapes(tmp_path) is None
    assert caplog.messages == [
        f"the sizes of adapters are not checked: {text}"
        for text in (
            f"org/name: {tells_nothing}",
            f"{gguf}: {tells_nothing}",
            f"{tmp_path}: {tells_nothing}",
            f"{tmp_path}: {tells_nothing}",
            f"{tmp_path}: model.safetensors.index.json has no weight_map",
            f"{tmp_path}: No such file or directory: {tmp_path / 'gone.safetensors'}",
            f"{tmp_path}: Error while deserializing header: header too small",
        )
    ]


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickled_weights(adapter: Path, base: BaseShapes, name: str) -> None:
    import torch

    shapes = shapes_in(adapter / WEIGHTS)
    path = adapter / name
    (adapter / WEIGHTS).unlink()
    torch.save({tensor: torch.zeros(shape) for tensor, shape in shapes.items()}, path)
    check(adapter, 8, base)
    torch.save({tensor: torch.zeros(shape) for tensor, shape in pair(Q, num_inputs=64).items()}, path)
    text = f"{Q} is for 64 inputs and 128 outputs; the base model's has 128 inputs and 128 outputs."
    assert refusal(adapter, base) == f"{path}: {text}{TRAINED}"
    for content, error in (({"x": 1}, "AttributeError"), ([], "AttributeError"), (adapter, "UnpicklingError")):
        torch.save(content, path)
        told = f"not a file of tensors ({error}); save the adapter as {WEIGHTS}."
        assert refusal(adapter, base) == f"{path}: {told}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert refusal(adapter, base) == (
        f"{path}: not a file of tensors (UnpicklingError); save the adapter as {WEIGHTS}."
    )


def told(act: Callable[[], object]) -> str:
    """What `act` refuses with, or nothing."""
    try:
        act()
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


@pytest.mark.vllm
@pytest.mark.parametrize("changes", [*GOOD_CONFIGS, *(changes for changes, _ in CONFIGS if "peft_type" not in changes)])
def test_vllm_refuses_the_same_configurations(adapter: Path, changes: dict[str, Any]) -> None:
    """All but those of another `peft_type`, which vLLM does not look at."""
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    configure(adapter, changes)
    theirs = told(lambda: PEFTHelper.from_local_dir(str(adapter), None).validate_legal(LoRAConfig(max_lora_rank=16)))
    ours = told(lambda: check(adapter, 16, None))
    assert bool(ours) == bool(theirs)
    assert re.findall(r"LoRA rank \d+ is .*? \d+\.", ours) == re.findall(r"LoRA rank \d+ is .*? \d+\.", theirs)


@pytest.mark.vllm
def test_vllm_reads_no_other_fields() -> None:
    """A field that is new here may be a feature that must be refused."""
    from vllm.lora.peft_helper import PEFTHelper

    assert {field.name for field in fields(PEFTHelper) if not field.name.startswith("vllm_")} == {
        "r", "lora_alpha", "target_modules", "bias", "modules_to_save", "use_rslora", "use_dora", "lora_bias",
        "init_lora_weights", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora",
        "rank_pattern", "alpha_pattern",
    }  # fmt: skip


@pytest.mark.vllm
@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("a.b.lora_A.weight", TensorName("a.b", "A")),
        ("a.b.lora_B.weight", TensorName("a.b", "B")),
        ("lm_head.lora_B.weight", TensorName("lm_head", "B")),
        ("a.score.lora_A.weight", TensorName("a.score", "A")),
        ("a.embed_tokens.lora_embedding_A", TensorName("a.embed_tokens", "A", is_embedding=True)),
        ("a.embed_tokens.lora_embedding_B", TensorName("a.embed_tokens", "B", is_embedding=True)),
        ("a.score.weight", TensorName("score", is_whole=True)),
        ("classifier.bias", TensorName("classifier", is_whole=True)),
        ("a.b.lora_A.bias", None),
        ("a.b.lora_A.default.weight", None),
        ("a.b.lora_magnitude_vector", None),
        ("a.b.weight", None),
        ("a", None),
    ],
)
def test_vllm_reads_the_same_names(prefix: str, name: str, parsed: TensorName | None) -> None:
    from vllm.lora.utils import parse_fine_tuned_lora_name

    assert parse_name(prefix + name) == parsed
    if parsed is None:
        with pytest.raises(ValueError, match="is unsupported LoRA weight"):
            parse_fine_tuned_lora_name(prefix + name)
    else:
        assert parse_fine_tuned_lora_name(prefix + name) == (parsed.module, parsed.side == "A")
