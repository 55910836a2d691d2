# SPDX-License-Identifier: Apache-2.0
"""LMI's own options, one field each: the only place that knows their names, types, defaults and vLLM targets.

`LmiOptions` covers `option.*` and `OPTION_*`; `ServerSettings` covers the server's keys and `SERVING_*`. Everything
else under `option.` is an argument of vLLM (`vllm_arguments.py`) and passes through.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serving.config.values import parse_bool, parse_int

Bool = Annotated[bool, BeforeValidator(lambda value: parse_bool(value) if isinstance(value, str) else value)]
Int = Annotated[int, BeforeValidator(lambda value: parse_int(value) if isinstance(value, str) else value)]


@dataclass(frozen=True, slots=True)
class EngineArg:
    """Marks an option that becomes the vLLM argument `name`; that name is then an alias of the option."""

    name: str


@dataclass(frozen=True, slots=True)
class Env:
    """Marks an option that has these variables besides its `OPTION_` or `SERVING_` one, weaker than it."""

    names: tuple[str, ...]


_DTYPES = {
    "auto": "auto",
    "float32": "float32", "float": "float32", "fp32": "float32",
    "float16": "float16", "half": "float16", "fp16": "float16",
    "bfloat16": "bfloat16", "bf16": "bfloat16",
}  # fmt: skip


def _dtype(value: Any) -> str:
    name = _DTYPES.get(str(value).strip().lower())
    if name is None:
        raise ValueError(f"expected one of {', '.join(_DTYPES)}, got {value!r}")
    return name


def _degree(value: Any) -> int | str:
    text = str(value).strip().lower()
    if text == "max":
        return text
    if (degree := parse_int(text)) < 1:
        raise ValueError(f"expected max or a whole number from 1, got {value!r}")
    return degree


def _only(*accepted: str, because: str) -> BeforeValidator:
    """Takes one of `accepted` in any case; refuses the rest rather than to serve something else in its name."""

    def check(value: Any) -> str:
        if str(value).strip().lower() not in [word.lower() for word in accepted]:
            raise ValueError(f"expected {' or '.join(accepted)}; {because}")
        return accepted[0]

    return BeforeValidator(check)


ASYNC_SERVICE = "djl_python.lmi_vllm.vllm_async_service"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class LmiOptions(_Table):
    """The options under `option.` and `OPTION_` that mean something to LMI. One field says all there is to say."""

    model_id: Annotated[str | None, EngineArg("model")] = Field(
        None, description="Model to serve: a Hugging Face id or a local directory. Unset: the model directory."
    )
    revision: Annotated[str | None, EngineArg("revision")] = Field(
        None, description="Branch, tag or commit of a Hugging Face model."
    )
    trust_remote_code: Annotated[Bool, EngineArg("trust_remote_code")] = Field(
        False, description="Let the model's own Python code run."
    )
    dtype: Annotated[str, BeforeValidator(_dtype), EngineArg("dtype")] = Field(
        "auto", description="Type of weights and activations: `auto`, `fp32`, `fp16`, `bf16` or vLLM's names."
    )
    quantize: Annotated[str | None, EngineArg("quantization")] = Field(
        None, description="Quantize at load: `fp8`, `bitsandbytes`, or a method of vLLM. Unset for quantized models."
    )
    entry_point: Annotated[str, _only(ASYNC_SERVICE, because="other handlers are not built yet")] = Field(
        ASYNC_SERVICE, alias="entryPoint", description="The handler; LMI's vLLM async service is the built-in one."
    )
    rolling_batch: Annotated[str, _only("disable", because="the rolling-batch profile is not built yet")] = Field(
        "disable", description="LMI's other mode of its vLLM handler."
    )
    async_mode: Bool = Field(True, description="LMI's mode on vLLM's async engine, and the only one here.")
    tensor_parallel_degree: Annotated[
        Literal["max"] | int,
        BeforeValidator(_degree),
        EngineArg("tensor_parallel_size"),
        Env(("TENSOR_PARALLEL_DEGREE",)),
    ] = Field("max", description="GPUs that share one copy of the model; `max` takes every visible one.")
    max_rolling_batch_size: Annotated[Int, EngineArg("max_num_seqs")] = Field(
        256, ge=1, description="Most sequences in one engine step."
    )
    enable_lora: Annotated[Bool, EngineArg("enable_lora")] = Field(
        False, description="Serve LoRA adapters; those in `adapters/` beside the model are loaded at start."
    )
    max_loras: Annotated[Int, EngineArg("max_loras")] = Field(
        4, ge=1, description="Most different adapters in one engine step."
    )


class ServerSettings(_Table):
    """The server's own keys: unprefixed in `serving.properties`, `SERVING_*` as variables."""

    engine: Annotated[str, _only("Python", "MPI", because="vLLM is the only engine here")] = Field(
        "Python", description="LMI's engine; vLLM's is called Python."
    )
    max_request_size: Int = Field(64 * 1024 * 1024, ge=1, description="Longest request body, in bytes.")
    shutdown_delay: Int = Field(
        0, ge=0, description="Seconds after SIGTERM in which requests are still accepted while `/ping` answers 503."
    )


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the tables, as the rest of `config/` reads it.

    Attributes:
        name: LMI's spelling.
        canonical: the name its value is kept under: the vLLM argument where it has one, else `name`.
        table: the class it belongs to.
        variables: environment variables besides the regular one.
    """

    name: str
    canonical: str
    table: type[LmiOptions] | type[ServerSettings]
    variables: tuple[str, ...]


@cache
def options() -> dict[str, Option]:
    """Every row of both tables, by every name it answers to."""
    rows: dict[str, Option] = {}
    for table in (LmiOptions, ServerSettings):
        for name, field in table.model_fields.items():
            target = next((mark.name for mark in field.metadata if isinstance(mark, EngineArg)), None)
            variables = next((mark.names for mark in field.metadata if isinstance(mark, Env)), ())
            row = Option(field.alias or name, target or name, table, variables)
            rows |= {row.name: row, row.canonical: row}
    return rows
