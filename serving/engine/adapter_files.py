# SPDX-License-Identifier: Apache-2.0
"""Whether a LoRA adapter's directory can be served, decided from its files before the engine sees it.

vLLM takes tensors of wrong shapes in silence and then answers nonsense; here they are refused with what is wrong and
what would be right. Called before an adapter is registered. Reads headers, never weights; knows no engine. A refusal
needs certainty: whatever vLLM may be able to serve passes, and vLLM has the last word.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from serving.errors import AdapterRefused

logger = logging.getLogger(__name__)

_CONFIG = "adapter_config.json"
_SAFETENSORS = "adapter_model.safetensors"
_PICKLES = ("adapter_model.bin", "adapter_model.pt")
FILES = (_CONFIG, _SAFETENSORS, *_PICKLES)
"""What vLLM reads of an adapter's directory."""
_INDEX = "model.safetensors.index.json"
_REQUIRED = ("r", "lora_alpha", "target_modules")
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA with a bias",
    "alora_invocation_tokens": "Activated LoRA",
    "layer_replication": "replicated layers",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}
"""Fields of `adapter_config.json` that must not be set, and what they stand for."""
_HEADS = ("classifier", "score")
"""The modules that an adapter may carry whole."""
_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Names in `init_lora_weights` that leave the base model as it is; the others change it when PEFT loads the adapter."""
_BASE_EMBEDDINGS = (".embed_tokens.base_layer.weight", ".lm_head.base_layer.weight")
"""Ends of names that PEFT saves beside an adapter's own tensors, and vLLM passes over."""
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Types whose stored shape is the layer's; integers may be several weights packed into one."""

Shape = tuple[int, ...]


class AdapterInvalid(AdapterRefused):
    """The directory holds no adapter that this model can be served with."""


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """What an adapter must fit: the base model's modules, named as in its checkpoint.

    Attributes:
        layers: (out_features, in_features) of `model.layers.0.self_attn.q_proj`; None where the stored shape does not
            tell, as of packed weights, stacked experts, convolutions and norms.
    """

    layers: Mapping[str, Shape | None]


def base_shapes(model_dir: Path) -> BaseShapes | None:
    """The shapes of a model on disk, from the headers of its safetensors files.

    Returns:
        None where they cannot be read, as of a Hub id, a GGUF file or a model that is quantized throughout.
    """
    layers: dict[str, Shape | None] = {}
    try:
        for path in _shards(model_dir):
            for name, (dtype, shape) in _read_header(path).items():
                module, _, leaf = name.rpartition(".")
                tells = leaf == "weight" and dtype in _FLOATS and len(shape) == 2
                layers[module] = shape if tells else layers.get(module)
        if not any(layers.values()):
            raise ValueError("no safetensors file on disk tells the shape of a layer")
    except (OSError, ValueError, RecursionError) as error:
        logger.info("the sizes of adapters are not checked: %s: %s", model_dir, error)
        return None
    return BaseShapes(layers)


def check(directory: Path, max_rank: int, base: BaseShapes | None) -> None:
    """Refuses a directory that is no adapter for this model. Reads files: not for the event loop's thread.

    Args:
        directory: what the adapter's `src` names.
        max_rank: the engine's `max_lora_rank`.
        base: the model it is for; None leaves the sizes of layers unchecked.

    Raises:
        AdapterInvalid: the text names the file, the fault and what would be right.
    """
    if not os.path.isdir(directory):  # unlike its namesake in pathlib, raises for no path
        raise AdapterInvalid(f"Only local LoRA models are supported. {directory} is not a valid path")
    try:
        config = _read_config(directory / _CONFIG, max_rank)
        path, shapes = _read_weights(directory)
        faults = list(_weight_faults(shapes, config, base, path))
    except OSError as error:
        raise AdapterInvalid(f"{error.filename or directory}: cannot be read: {error.strerror or error}.") from None
    if faults:
        # The first tells: with a wrong base model there are hundreds.
        count = f" One of {len(faults)} faults." if len(faults) > 1 else ""
        origin = f" The adapter was trained on {config.origin}." if config.origin else ""
        raise AdapterInvalid(f"{path}: {faults[0]}{count}{origin}")


class Checker:
    """Checks the files of adapters for one model. The engine takes wrong shapes in silence.

    Args:
        max_rank: the engine's `max_lora_rank`.
        model_dir: the model's.
    """

    def __init__(self, max_rank: int, model_dir: Path):
        self._max_rank = max_rank
        self._model_dir = model_dir

    def __call__(self, path: Path) -> None:
        """As `check`."""
        check(path, self._max_rank, self._base_shapes)

    @cached_property
    def _base_shapes(self) -> BaseShapes | None:
        return base_shapes(self._model_dir)


# The configuration


@dataclass(frozen=True, slots=True)
class _Config:
    """What the weights must agree with.

    Attributes:
        rank: of every module that no pattern names.
        rank_pattern: regular expressions of module names, and their ranks.
        is_transposed: some base layers may be stored as (in_features, out_features).
        origin: the model that the adapter was trained on; empty if the file does not tell.
    """

    rank: int
    rank_pattern: Mapping[str, int]
    is_transposed: bool
    origin: str

    def rank_of(self, module: str) -> int | None:
        """The rank by PEFT's rule, the first pattern that matches; None if a pattern cannot be read."""
        try:
            matches = (n for key, n in self.rank_pattern.items() if re.match(rf"(.*\.)?({key})$", module))
            return next(matches, self.rank)
        except re.error:
            return None


def _read_config(path: Path, max_rank: int) -> _Config:
    if not path.is_file():
        raise AdapterInvalid(f"{path}: not found; an adapter is a directory with {_CONFIG} and {_SAFETENSORS}.")
    try:
        values = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterInvalid(f"{path}: not valid JSON: {error}.") from None
    if not isinstance(values, dict):
        raise AdapterInvalid(f"{path}: must be a JSON object, not {type(values).__name__}.")
    if faults := list(_config_faults(values, max_rank)):
        raise AdapterInvalid(f"{path}: {' '.join(faults)}")
    return _Config(
        values["r"],
        values.get("rank_pattern") or {},
        bool(values.get("fan_in_fan_out")),
        str(values.get("base_model_name_or_path") or ""),
    )


def _config_faults(values: dict[str, Any], max_rank: int) -> Iterator[str]:
    """What vLLM would refuse in the configuration, and adapters of another kind."""
    kind = values.get("peft_type")
    missing = [name for name in _REQUIRED if name not in values]
    if kind is not None and str(kind).upper() != "LORA":
        yield f"peft_type is {json.dumps(kind)}; it must be LORA."
    elif missing:
        yield f"{' and '.join(missing)} must be set."
    else:
        yield from _feature_faults(values)
        yield from _number_faults(values, max_rank)


def _feature_faults(values: dict[str, Any]) -> Iterator[str]:
    saved = values.get("modules_to_save")
    if saved and not (isinstance(saved, list) and all(name in _HEADS for name in saved)):
        yield f"modules_to_save is {json.dumps(saved)}; only {' and '.join(_HEADS)} can be served."
    for name, feature in _UNSUPPORTED.items():
        if values.get(name):
            yield f"{name} is set; {feature} cannot be served, train the adapter without."
    init = values.get("init_lora_weights")
    if isinstance(init, str) and init.lower() not in _INITS:
        yield (
            f"init_lora_weights is {json.dumps(init)}, which changes the base model; convert the adapter with PEFT's "
            "path_initial_model_for_weight_conversion, or set it to true if the base model is the changed one."
        )
    if values.get("bias", "none") != "none":
        yield f'bias is {json.dumps(values["bias"])}; it must be "none".'


def _number_faults(values: dict[str, Any], max_rank: int) -> Iterator[str]:
    ranks = {"r": values["r"]}
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = values.get(name) or {}
        if not isinstance(pattern, dict):
            yield f"{name} is {json.dumps(pattern)}; it must be an object."
        elif name == "rank_pattern":
            ranks |= {f"rank_pattern of {json.dumps(key)}": rank for key, rank in pattern.items()}
    if not isinstance(values["lora_alpha"], int | float):
        yield f"lora_alpha is {json.dumps(values['lora_alpha'])}; it must be a number."
    wrong = {name: rank for name, rank in ranks.items() if type(rank) is not int or rank <= 0}
    for name, rank in wrong.items():
        yield f"{name} is {json.dumps(rank)}; it must be a positive integer."
    if not wrong and (largest := max(ranks.values())) > max_rank:
        yield f"LoRA rank {largest} is greater than max_lora_rank {max_rank}. Raise option.max_lora_rank."


# The weights


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two tensors of a module."""

    shape: Shape
    is_embedding: bool


def _read_weights(directory: Path) -> tuple[Path, dict[str, Shape]]:
    """The file that vLLM would load, and the shapes in it."""
    path = directory / _SAFETENSORS
    if path.is_file():
        try:
            return path, {name: shape for name, (_, shape) in _read_header(path).items()}
        except (ValueError, RecursionError) as error:
            raise AdapterInvalid(f"{path}: not a whole safetensors file: {error}.") from None
    for name in _PICKLES:
        if (pickle := directory / name).is_file():
            return pickle, _read_pickle(pickle)
    raise AdapterInvalid(f"{path}: not found; an adapter is a directory with {_CONFIG} and {_SAFETENSORS}.")


def _read_pickle(path: Path) -> dict[str, Shape]:
    """As vLLM reads it, on the device that has no memory. Torch comes late: most adapters have no such file."""
    import torch

    try:
        tensors = torch.load(path, map_location="meta", weights_only=True)
        return {str(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    except OSError:
        raise
    except Exception as error:  # unpickling a broken file raises whatever its bytes say
        logger.debug("reading %s failed", path, exc_info=True)
        raise AdapterInvalid(
            f"{path}: not a file of tensors ({type(error).__name__}); save the adapter as {_SAFETENSORS}."
        ) from None


def _weight_faults(shapes: Mapping[str, Shape], config: _Config, base: BaseShapes | None, path: Path) -> Iterator[str]:
    """What is wrong with the tensors, a sentence per fault."""
    modules: dict[str, dict[str, _Side]] = {}
    for name, shape in shapes.items():
        if name.endswith(_BASE_EMBEDDINGS):
            continue
        if (parsed := parse_name(name)) is None:
            yield f"The tensor {name} is not a LoRA weight; names must end in lora_A.weight or lora_B.weight."
        elif not parsed.is_whole:
            modules.setdefault(parsed.module, {})[parsed.side] = _Side(shape, parsed.is_embedding)
    if not shapes:
        yield "The file has no tensors."
    yield from _missing(modules, base, path)
    layers = base.layers if base else {}
    for module, sides in modules.items():
        yield from _module_faults(module, sides, config, layers.get(module))


@dataclass(frozen=True, slots=True)
class TensorName:
    """A tensor's name, taken apart.

    Attributes:
        module: the base model's module, without PEFT's prefix.
        side: `A` or `B`.
        is_embedding: an embedding's pair, whose layer has the shape (num_embeddings, embedding_dim).
        is_whole: no pair, but a module that the adapter carries whole.
    """

    module: str
    side: str = ""
    is_embedding: bool = False
    is_whole: bool = False


def parse_name(name: str) -> TensorName | None:
    """Reads a tensor's name as vLLM does, without a model's own renaming; None if vLLM would refuse it."""
    match name.removeprefix("base_model.model.").split("."):
        case [_, *_, "lora_A" | "lora_B" as side, "weight"] as parts:
            return TensorName(".".join(parts[:-2]), side[-1])
        case [_, *_, "lora_embedding_A" | "lora_embedding_B" as side] as parts:
            return TensorName(".".join(parts[:-1]), side[-1], is_embedding=True)
        case [*_, "score" | "classifier" as module, "weight" | "bias"]:
            return TensorName(module, is_whole=True)
    return None


def _module_faults(module: str, sides: Mapping[str, _Side], config: _Config, layer: Shape | None) -> Iterator[str]:
    """What is wrong with one module's pair, at most one sentence."""
    if len(sides) < 2:
        (side,) = sides
        yield f"{module} has lora_{side} without lora_{'B' if side == 'A' else 'A'}; it needs both."
        return
    a, b = sides["A"].shape, sides["B"].shape
    if _is_stacked(module) or max(len(a), len(b)) > 2:
        return
    rank = config.rank_of(module)
    if min(len(a), len(b)) < 2:
        yield f"{module} has the shapes {list(a)} and {list(b)}; lora_A and lora_B need two dimensions."
    elif rank is not None and (a[0] != rank or b[1] != rank):
        yield f"{module} has rank {a[0]} in lora_A and {b[1]} in lora_B; {_CONFIG} says {rank}."
    elif layer is not None:
        yield from _size_faults(module, (b[0], a[1]), layer[::-1] if sides["A"].is_embedding else layer, config)


def _size_faults(module: str, sizes: Shape, layer: Shape, config: _Config) -> Iterator[str]:
    """Compares (outputs, inputs) of the adapter and of the layer, which may be stored the other way round."""
    if sizes == layer or (config.is_transposed and sizes == layer[::-1]):
        return
    yield (
        f"{module} is for {sizes[1]} inputs and {sizes[0]} outputs; "
        f"the base model's has {layer[1]} inputs and {layer[0]} outputs."
    )


def _is_stacked(module: str) -> bool:
    """Experts in one tensor have layouts of their own: rank times experts, or a dimension more."""
    return "experts" in module.split(".")[-2:]


def _missing(modules: Iterable[str], base: BaseShapes | None, path: Path) -> Iterator[str]:
    """Modules that the base model has in other layers, but not where the adapter needs them.

    Any other name that is not in the checkpoint may be vLLM's own or the training code's name for something that is, a
    tied head or experts that were stacked, so it passes.
    """
    if base is None:
        return
    unknown = [module for module in modules if module not in base.layers]
    kinds = {_kind(module) for module in base.layers} if unknown else set()
    for module in unknown:
        if _kind(module) in kinds:
            yield f"{module} does not exist in the base model."
    if unchecked := [module for module in unknown if _kind(module) not in kinds]:
        logger.info(
            "%s: not checked are the sizes of modules that the base model's files do not name: %d, such as %s",
            path, len(unchecked), unchecked[0],
        )  # fmt: skip


def _kind(module: str) -> str:
    """The name without the numbers of layers and experts."""
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


def _shards(model_dir: Path) -> list[Path]:
    """The model's safetensors files; without an index, every one in the directory."""
    index = model_dir / _INDEX
    if not index.is_file():
        return sorted(model_dir.glob("*.safetensors"))
    match json.loads(index.read_text("utf-8")):
        case {"weight_map": dict(files)}:
            return [model_dir / name for name in sorted({str(file) for file in files.values()})]
    raise ValueError(f"{_INDEX} has no weight_map")


def _read_header(path: Path) -> dict[str, tuple[str, Shape]]:
    """Type and shape of each tensor of a safetensors file, whose size must be what they add up to.

    Raises:
        ValueError: not such a file, or not all of it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    except SafetensorError as error:
        raise ValueError(str(error)) from None
