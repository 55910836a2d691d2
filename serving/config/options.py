# SPDX-License-Identifier: Apache-2.0
"""LMI's own options, one field each: the only place that knows their names, types, defaults and vLLM targets.

`LmiOptions` covers `option.*` and `OPTION_*`; `ServerSettings` covers the server's keys and `SERVING_*`. Everything
else under `option.` is an argument of vLLM (`vllm_arguments.py`) and passes through.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from serving.config.error_rate import ErrorRate, parse_error_rate
from serving.config.values import (
    NotWholeNumber,
    Unsupported,
    parse_bool,
    parse_float,
    parse_human_int,
    parse_int,
    parse_list,
    parse_numbers,
)


def _reads(parse: Any) -> BeforeValidator:
    """Texts go through `parse`; what is typed already stays."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


Bool = Annotated[bool, _reads(parse_bool)]
Int = Annotated[int, _reads(parse_int)]
HumanInt = Annotated[int, _reads(parse_human_int)]
Float = Annotated[float, _reads(parse_float)]
Numbers = Annotated[tuple[float, ...], _reads(parse_numbers)]

_DEVICE = re.compile(r"(gpu|nc)?\d+|-1|cpu")
_PREDICT_TIMEOUT_S = 240
_MODEL_LOADING_TIMEOUT_S = 1200


def _or_default(default: int) -> BeforeValidator:
    """Zero means the default, as in LMI."""
    return _reads(lambda text: parse_int(text) or default)


@dataclass(frozen=True, slots=True)
class EngineArg:
    """Marks an option that becomes the vLLM argument `name`; that name is then an alias of the option."""

    name: str


@dataclass(frozen=True, slots=True)
class Env:
    """Marks an option that has variables besides its `OPTION_` or `SERVING_` one.

    Attributes:
        older: weaker than the regular one.
        sagemaker: stronger than `serving.properties`, as SageMaker's endpoint configuration is.
    """

    older: tuple[str, ...] = ()
    sagemaker: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lenient:
    """Marks an option whose unreadable value costs a warning and leaves the default, as in LMI."""


@dataclass(frozen=True, slots=True)
class NoEffect:
    """Marks an option that is checked, has no effect and says so when somebody sets it."""

    reason: str


_DTYPES = {
    "auto": "auto",
    "float32": "float32", "float": "float32", "fp32": "float32",
    "float16": "float16", "half": "float16", "fp16": "float16",
    "bfloat16": "bfloat16", "bf16": "bfloat16",
}  # fmt: skip


def _dtype(value: Any) -> str:
    name = _DTYPES.get(str(value).strip().lower())
    if name is None:
        raise ValueError(f"expected one of {', '.join(_DTYPES)}")
    return name


def _degree(value: Any) -> int | str:
    text = str(value).strip().lower()
    if text == "max":
        return text
    try:
        degree = parse_int(text)
    except NotWholeNumber:
        raise NotWholeNumber("expected max or a whole number from 1") from None
    if degree < 1:
        raise ValueError("expected max or a whole number from 1")
    return degree


ASYNC_SERVICE = "djl_python.lmi_vllm.vllm_async_service"
HUGGINGFACE = "djl_python.huggingface"
"""LMI's names of the two built-in handlers that generate with vLLM."""


def _entry_point(value: Any) -> str:
    if value in (ASYNC_SERVICE, HUGGINGFACE):
        return str(value)
    if value.startswith("djl_python."):
        raise Unsupported(f"it belongs to another backend; vLLM's are {ASYNC_SERVICE} and {HUGGINGFACE}")
    if value.startswith(("http://", "https://")):
        raise Unsupported("code is not downloaded; put the file into the model directory")
    return str(value)


def _variables(value: Any) -> dict[str, str]:
    """`A=1,B=2`; a comma that no name follows belongs to the value before it."""
    if isinstance(value, dict):
        return value
    pairs = [pair.partition("=") for pair in re.split(r",(?=\s*[A-Za-z_]\w*\s*=)", value) if pair.strip()]
    if any(not separator or not name.strip() for name, separator, _ in pairs):
        raise ValueError("expected NAME=VALUE,NAME=VALUE")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _rolling_batch(value: Any) -> str:
    word = str(value).strip().lower()
    if word in ("trtllm", "tnx", "scheduler"):
        raise Unsupported("it belongs to another backend; vllm, auto and disable are the values here")
    if word not in ("auto", "vllm", "lmi-dist", "disable"):
        raise ValueError("expected vllm, auto or disable")
    return word


def _engine(value: Any) -> str:
    word = str(value).strip().lower()
    if word not in ("python", "mpi"):
        raise Unsupported("vLLM is the only engine here, and LMI calls it Python")
    return {"python": "Python", "mpi": "MPI"}[word]


def _roots(text: str | None) -> str | None:
    for root in (text or "").split(","):
        if "://" in root and not re.match(r"(s3|hf)://[^/]", root.strip()):
            raise ValueError(f"{root.strip()} is neither a directory nor a prefix like s3://BUCKET/ or hf://NAME/")
    return text


def _devices(text: str) -> str:
    if text != "*" and not all(_DEVICE.fullmatch(part.strip()) for part in re.split("[;+]", text)):
        raise ValueError("expected numbers of GPUs, such as 0 or gpu0;gpu4, or *")
    return text


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
    task: str = Field("auto", description="What the model does: `text-generation`, `text-embedding`, `classify`, ...")
    dtype: Annotated[str, BeforeValidator(_dtype), EngineArg("dtype")] = Field(
        "auto", description="Type of weights and activations: `auto`, `fp32`, `fp16`, `bf16` or vLLM's names."
    )
    quantize: Annotated[str | None, EngineArg("quantization")] = Field(
        None, description="Quantize at load: `fp8`, `bitsandbytes`, or a method of vLLM. Unset for quantized models."
    )
    load_in_8bit: Bool = Field(False, description="Older spelling of `quantize=bitsandbytes8`.")
    load_in_4bit: Bool = Field(False, description="Older spelling of `quantize=bitsandbytes4`.")
    entry_point: Annotated[str | None, BeforeValidator(_entry_point), Env(older=("DJL_ENTRY_POINT",))] = Field(
        None,
        alias="entryPoint",
        description=f"The handler: a file of the model directory, a module, `{ASYNC_SERVICE}` or `{HUGGINGFACE}`.",
    )
    handler: str = Field("handle", description="The function of `model.py` that answers requests.")
    custom_handler_fallback: Literal["on", "load-strict", "off"] = Field(
        "on",
        description="When a custom handler fails: `on` the default one answers; `load-strict` the same, but a file "
        "that does not load refuses to start; `off` the failure is the answer.",
    )
    default_engine: Literal["auto", "eager", "off"] = Field(
        "auto",
        description="When vLLM starts beside a custom handler: `auto` as soon as it is needed, `eager` with the "
        "server, `off` never.",
    )
    handler_strict_types: Bool = Field(
        False, description="A handler may return `Output`, None and generators of `Output` only, as in LMI."
    )
    enable_stateful_sessions: Bool = Field(True, description="Clients may create sessions, `requestType`.")
    sessions_path: str | None = Field(None, description="Where sessions are kept; default: in shared memory.")
    sessions_expiration: Int = Field(1200, ge=1, description="Seconds that a session lives, from its creation.")
    sessions_s3url: Annotated[str | None, NoEffect("sessions stay on this machine")] = Field(
        None, description="Not used."
    )
    python_executable: Annotated[str | None, Env(older=("PYTHON_EXECUTABLE",))] = Field(
        None, alias="pythonExecutable", description="Python interpreter that runs a custom handler."
    )
    enable_venv: Bool = Field(False, description="`requirements.txt` is installed into an environment of its own.")
    env: Annotated[dict[str, str], BeforeValidator(_variables)] = Field(
        {}, description="Variables to set before anything is loaded: `A=1,B=2`."
    )
    rolling_batch: Annotated[str | None, BeforeValidator(_rolling_batch)] = Field(
        None, description="`vllm` or `auto`: LMI's rolling-batch payloads and defaults. `disable` or unset: async."
    )
    async_mode: Bool | None = Field(None, description="LMI's mode on vLLM's async engine; true unless set otherwise.")
    tensor_parallel_degree: Annotated[
        Literal["max"] | int,
        BeforeValidator(_degree),
        EngineArg("tensor_parallel_size"),
        Env(older=("TENSOR_PARALLEL_DEGREE",)),
    ] = Field("max", description="GPUs that share one stage of the model; `max` takes every visible one.")
    pipeline_parallel_degree: Annotated[
        Int, EngineArg("pipeline_parallel_size"), Env(older=("PIPELINE_PARALLEL_DEGREE",))
    ] = Field(1, ge=1, description="Stages that the model's layers are divided into.")
    max_rolling_batch_size: Annotated[Int, EngineArg("max_num_seqs")] = Field(
        256, ge=1, description="Most sequences in one engine step."
    )
    max_rolling_batch_prefill_tokens: Annotated[HumanInt | None, EngineArg("max_num_batched_tokens")] = Field(
        None, ge=1, description="Most tokens in one engine step, prompts included; `8k` is 8000."
    )
    cpu_offload_gb_per_gpu: Annotated[Float | None, EngineArg("cpu_offload_gb")] = Field(
        None, ge=0, description="Weights kept in CPU memory, GiB per GPU."
    )
    enable_lora: Annotated[Bool, EngineArg("enable_lora")] = Field(
        False, description="Serve LoRA adapters; those in `adapters/` beside the model are loaded at start."
    )
    max_loras: Annotated[Int, EngineArg("max_loras")] = Field(
        4, ge=1, description="Most different adapters in one engine step."
    )
    long_lora_scaling_factors: Annotated[
        Numbers | None, NoEffect("vLLM reads the scaling from each adapter's configuration")
    ] = Field(None, description="Not used any more.")
    lora_extra_vocab_size: Annotated[
        Int | None, NoEffect("vLLM serves no adapters with a vocabulary of their own any more")
    ] = Field(None, description="Not used any more.")
    adapter_roots: Annotated[str | None, AfterValidator(_roots)] = Field(
        None,
        description="Where adapters given over HTTP may come from, with commas between: directories, and prefixes "
        "`s3://bucket/path/` or `hf://organization/`. Unset: the model directory and the Hub's cache.",
    )
    adapters: str = Field("adapters", description="The folder beside the model that holds the adapters; fixed.")
    output_formatter: str | None = Field(
        None, description="How answers look unless a payload says otherwise: `json`, `jsonlines`, `sse`, ..."
    )
    tgi_compat: Bool = Field(False, description="Rolling batch's answers with TGI's key names, in both modes.")
    bedrock_compat: Bool = Field(False, description="In rolling batch, payloads with `prompt` and `max_gen_len`.")
    normalize: Bool = Field(True, description="Embeddings have length one.")
    lmi_default_greedy: Bool = Field(
        False, description="In async mode, payloads without `do_sample` and `temperature` are greedy."
    )
    invocations_api: Literal["lmi", "openai"] = Field(
        "lmi", description="`openai`: `/invocations` is that of `vllm serve`, with its streams and status codes."
    )
    predict_timeout: Annotated[
        int,
        _or_default(_PREDICT_TIMEOUT_S),
        Lenient(),
        Env(older=("PREDICT_TIMEOUT",), sagemaker=("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",)),
    ] = Field(
        _PREDICT_TIMEOUT_S,
        ge=1,
        description="Seconds until the first output of a request; without stream the whole answer.",
    )
    model_loading_timeout: Annotated[
        int,
        _or_default(_MODEL_LOADING_TIMEOUT_S),
        Lenient(),
        Env(older=("MODEL_LOADING_TIMEOUT",), sagemaker=("SAGEMAKER_STARTUP_TIMEOUT",)),
    ] = Field(
        _MODEL_LOADING_TIMEOUT_S, ge=1, description="Seconds until the model must be loaded; then the start fails."
    )
    tool_fallback: Bool = Field(
        True,
        description="Calls of functions work without a `tool_call_parser`; `off` refuses such requests, as vLLM.",
    )
    enable_reasoning: Bool = Field(False, description="Older switch; `reasoning_parser` alone turns reasoning on.")
    lmcache_config_file: str | None = Field(None, description="LMCache's configuration, from the model directory.")
    lmcache_auto_config: Bool = Field(False, description="LMCache with sizes that are worked out from the machine.")
    strict: Bool = Field(
        False, description="Refuse to start on unknown options and on broken adapters, instead of warning."
    )


_ErrorRate = Annotated[ErrorRate | None, BeforeValidator(parse_error_rate)]
_HttpCode = Annotated[Int, Field(ge=400, le=599)]
_Workers = Annotated[Int | None, Env(sagemaker=("SAGEMAKER_NUM_MODEL_WORKERS",))]


class ServerSettings(_Table):
    """The server's own keys: unprefixed in `serving.properties`, `SERVING_*` as variables."""

    min_workers: _Workers = Field(None, alias="minWorkers", ge=0, description="Not used alone: copies start at once.")
    max_workers: _Workers = Field(
        None, alias="maxWorkers", ge=0, description="Copies of a dense model, as `option.data_parallel_size`."
    )
    gpu_min_workers: Int | None = Field(None, alias="gpu.minWorkers", ge=0, description="`minWorkers` on GPUs.")
    gpu_max_workers: Int | None = Field(None, alias="gpu.maxWorkers", ge=0, description="`maxWorkers` on GPUs.")
    cpu_min_workers: Int | None = Field(None, alias="cpu.minWorkers", ge=0, description="`minWorkers` on a CPU.")
    cpu_max_workers: Int | None = Field(None, alias="cpu.maxWorkers", ge=0, description="`maxWorkers` on a CPU.")
    inference_address: str | None = Field(
        None, description="Where to listen: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`."
    )
    management_address: str | None = Field(
        None,
        description="The same for `/models`, `/workflows`, `/server/*` and adapters, which then are there alone. Unset "
        "or the same: one address serves all.",
    )
    cors_allowed_origin: Annotated[list[str] | None, _reads(parse_list), EngineArg("allowed_origins")] = Field(
        None, description="Origins whose pages may ask, with commas between; `*` for all."
    )
    cors_allowed_methods: Annotated[list[str] | None, _reads(parse_list), EngineArg("allowed_methods")] = Field(
        None, description="Methods that such pages may use."
    )
    cors_allowed_headers: Annotated[list[str] | None, _reads(parse_list), EngineArg("allowed_headers")] = Field(
        None, description="Headers that such pages may send."
    )
    certificate_file: Annotated[str | None, EngineArg("ssl_certfile")] = Field(
        None, description="Certificate for TLS, as PEM."
    )
    private_key_file: Annotated[str | None, EngineArg("ssl_keyfile")] = Field(None, description="Its key, as PEM.")
    throttle_error_http_code: _HttpCode = Field(503, description="Status where the queue is full, on LMI's routes.")
    wlm_error_http_code: _HttpCode = Field(503, description="Status where the model is not ready.")
    timeout_http_code: _HttpCode = Field(504, description="Status of a request that took too long.")
    bad_request_http_code: _HttpCode = Field(400, description="Status of a bad request to a management route.")
    server_error_http_code: _HttpCode = Field(500, description="Status of a failure of the server's own.")
    error_rate_wlm: _ErrorRate = Field(
        None, description="Requests without room, `5/PT10M`: more within that time, and `/ping` is 503 until a restart."
    )
    error_rate_server: _ErrorRate = Field(None, description="The same for failures of the server.")
    error_rate_any: _ErrorRate = Field(None, description="The same for both together.")
    request_id_header_key: str = Field(
        "x-request-id",
        description="Header of a request with its id; on SageMaker, unless set, `X-Amzn-SageMaker-Inference-Id`. "
        "Answers have the id as `x-request-id`.",
    )
    prometheus: Bool = Field(
        False, description="`/server/metrics` shows metrics under LMI's names; `/metrics` is always there."
    )
    fail_fast: Bool = Field(False, description="The exit code after the engine's death is 137, as if it was killed.")
    model_store: str | None = Field(None, description="A directory with serving.properties and model files.")
    load_models: str | None = Field(None, description="The model to load, `NAME=MODEL`; `ALL`: that of the store.")
    load_on_devices: Annotated[str, AfterValidator(_devices)] = Field(
        "*", description="The first GPU to use: `0`, `gpu1`; `*` for the first that there is."
    )
    engine: Annotated[str, BeforeValidator(_engine)] = Field(
        "Python", description="LMI's engine; vLLM's is called Python."
    )
    max_request_size: Annotated[Int, Env(sagemaker=("SAGEMAKER_MAX_REQUEST_SIZE",))] = Field(
        64 * 1024 * 1024, ge=1, description="Longest request body, in bytes."
    )
    job_queue_size: Int = Field(
        1000, ge=1, description="Requests that may wait beyond those the engine runs; more are refused."
    )
    retry_threshold: Int = Field(
        0, ge=0, description="How often a custom handler's process may die where no default one could take over."
    )
    batch_size: Int = Field(1, ge=1, description="Most requests that one call of a custom handler answers together.")
    max_batch_delay: Int = Field(100, ge=0, description="Milliseconds that such a batch waits for its next request.")
    chunked_read_timeout: Int = Field(
        120, ge=1, description="Seconds between two pieces of a stream; if set, also until the first one."
    )
    stall_timeout: Int = Field(
        60, ge=1, description="Seconds without any output, while requests wait, after which `/ready` is 503."
    )
    memory_cache_capacity: Int = Field(
        1000,
        ge=1,
        description="Asynchronous results that are kept. Without room the finished one that nobody asked for longest "
        "goes; where all are unfinished the request is refused.",
    )
    memory_cache_ttl: Int = Field(
        3600, ge=1, description="Seconds that a finished asynchronous result is kept after it was last asked for."
    )
    memory_cache_max_bytes: Int = Field(
        256 * 1024 * 1024, ge=1, description="Memory that asynchronous results may take together, in bytes."
    )
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
        is_lenient: an unreadable value leaves the default.
        no_effect: why setting it changes nothing; empty for every other option.
    """

    name: str
    canonical: str
    table: type[LmiOptions] | type[ServerSettings]
    variables: Env
    is_lenient: bool
    no_effect: str

    @property
    def key(self) -> str:
        """As it stands in `serving.properties`."""
        return f"option.{self.name}" if self.table is LmiOptions else self.name


@cache
def options() -> dict[str, Option]:
    """Every row of both tables, by every name it answers to."""
    rows: dict[str, Option] = {}
    for table in (LmiOptions, ServerSettings):
        for name, field in table.model_fields.items():
            marks = {type(mark): mark for mark in field.metadata}
            row = Option(
                name=field.alias or name,
                canonical=marks[EngineArg].name if EngineArg in marks else field.alias or name,
                table=table,
                variables=marks.get(Env, Env()),
                is_lenient=Lenient in marks,
                no_effect=marks[NoEffect].reason if NoEffect in marks else "",
            )
            rows |= {row.name: row, row.canonical: row} | ({name: row} if table is ServerSettings else {})
    return rows


def engine_values(given: LmiOptions | ServerSettings) -> dict[str, Any]:
    """vLLM argument to value, for every option that is marked with one."""
    return {
        mark.name: getattr(given, name)
        for name, field in type(given).model_fields.items()
        for mark in field.metadata
        if isinstance(mark, EngineArg)
    }
