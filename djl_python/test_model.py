# SPDX-License-Identifier: Apache-2.0
"""Runs a `model.py` without the server: `python -m djl_python.test_model --model-dir DIR --input TEXT`.

The functions build requests and read answers, `TestHandler` calls a handler with them. Asynchronous handlers are run
to their end; the answer of a streaming one is a list of Outputs.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from djl_python.inputs import Input
from djl_python.np_util import to_nd_list, to_npz
from djl_python.outputs import Output, decode_frame, parse_pairs
from djl_python.service_loader import ModelService, load_model_service

if TYPE_CHECKING:
    import asyncio

    import numpy as np

_TYPES = {
    ".json": "application/json",
    ".txt": "text/plain",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".ndlist": "tensor/ndlist",
    ".npz": "tensor/npz",
}


def create_json_request(obj: Any, key: str | None = None) -> Input:
    """A request with a value as JSON."""
    return _request(json.dumps(obj).encode("utf-8"), "application/json", key)


def create_text_request(text: str, key: str | None = None) -> Input:
    """A request with plain text."""
    return _request(text.encode("utf-8"), "text/plain", key)


def create_numpy_request(nd_list: Any, key: str | None = None) -> Input:
    """A request with a list of arrays as an NDList."""
    return _request(to_nd_list(nd_list), "tensor/ndlist", key)


def create_npz_request(nd_list: Any, key: str | None = None) -> Input:
    """A request with a list of arrays as an `.npz` file."""
    return _request(to_npz(nd_list), "tensor/npz", key)


def create_3p_request(obj: Any, stream: bool = False, key: str | None = None) -> Input:
    """A request as Bedrock forwards it."""
    request = create_json_request(obj, key)
    forwarded = "InvokeEndpointWithResponseStream" if stream else "InvokeEndpoint"
    request.properties["X-Amzn-SageMaker-Forwarded-Api"] = forwarded
    return request


def create_concurrent_batch_request(
    inputs: Sequence[Any],
    properties: Sequence[Mapping[str, Any]] | None = None,
    serving_properties: Mapping[str, Any] | None = None,
) -> Input:
    """Several requests as one batch.

    Args:
        inputs: a body per request, sent as JSON.
        properties: the properties per request; without them each has its content type only.
        serving_properties: properties of the batch; `handler` in them is the function to call.
    """
    batch = Input()
    batch.properties.update({"device_id": "-1", **(serving_properties or {})})
    batch.properties["batch_size"] = len(inputs)
    batch.function_name = batch.get_property("handler") or "handle"
    for index, body in enumerate(inputs):
        own = properties[index] if properties else {"content-type": "application/json"}
        for name, value in own.items():
            batch.properties[f"batch_{index:03}_{name}"] = value
        batch.content.add(f"batch_{index:03}_data", json.dumps(body).encode("utf-8"))
    return batch


def create_request(input_files: Sequence[str], parameters: Sequence[str] | None = None) -> Input:
    """A request out of command-line words.

    Args:
        input_files: each a value, or `name=value`. The value is a file's path, or text; text in braces is JSON. The
            first one's kind is the content type.
        parameters: each `name=value`, added as further content.

    Raises:
        ValueError: a parameter is not of that form.
    """
    request = Input()
    request.properties["device_id"] = "-1"
    for word in input_files:
        name, body, kind = _read(word)
        if "content-type" not in request.properties:
            request.properties["content-type"] = kind
        request.content.add(name, body)
    for word in parameters or ():
        pair = word.split("=")
        if len(pair) != 2:
            raise ValueError(f"a parameter looks like name=value, not {word!r}")
        request.content.add(pair[0], pair[1].encode("utf-8"))
    return request


def extract_output_as_input(outputs: Output) -> Input:
    """The content and headers of an answer, with the ways to read that an `Input` has."""
    read = Input()
    read.properties.update(outputs.properties)
    read.content = outputs.content
    return read


def extract_output_as_bytes(outputs: Output, key: str | None = None) -> Any:
    """The content as bytes, or None; raises as `Input.get_as_bytes`."""
    return extract_output_as_input(outputs).get_as_bytes(key)


def extract_output_as_string(outputs: Output, key: str | None = None) -> str:
    """The content as text; raises as `Input.get_as_string`."""
    return extract_output_as_input(outputs).get_as_string(key)


def extract_output_as_numpy(outputs: Output, key: str | None = None) -> "list[np.ndarray[Any, Any]]":
    """The content as the arrays of an NDList; raises as `Input.get_as_numpy`."""
    return extract_output_as_input(outputs).get_as_numpy(key)


def extract_output_as_npz(outputs: Output, key: str | None = None) -> "list[np.ndarray[Any, Any]]":
    """The content as the arrays of an `.npz` file; raises as `Input.get_as_npz`."""
    return extract_output_as_input(outputs).get_as_npz(key)


def decode_encoded_output_binary(binary: bytes) -> dict[str, str]:
    """The pairs of a response frame.

    Raises:
        ValueError: the bytes are not one.
    """
    pairs = parse_pairs(binary)
    if pairs is None:
        raise ValueError("the bytes are not a response frame")
    return pairs


def load_properties(properties_dir: str) -> dict[str, str]:
    """The lines of `serving.properties` in a folder, names without `option.`; empty where there is no such file."""
    path = os.path.join(properties_dir, "serving.properties")
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {name.strip().removeprefix("option."): value.strip() for name, _, value in pairs}


def update_properties_with_env_vars(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Adds the options of the environment, `HF_MODEL_ID` and `OPTION_*`, to a dict, which it returns."""
    for name, value in os.environ.items():
        if name == "HF_MODEL_ID":
            kwargs["model_id"] = value
        elif name.startswith("OPTION_"):
            option = name.removeprefix("OPTION_").lower()
            kwargs["entryPoint" if option == "entrypoint" else option] = value
    return kwargs


class TestHandler:
    """A handler, and what a server would call it with.

    Attributes:
        serving_properties: options of the environment, then those of `serving.properties`.
    """

    __test__ = False  # pytest: this is no test

    def __init__(self, entry_point: str | ModuleType, model_dir: str | None = None):
        """Loads a handler.

        Args:
            entry_point: a file, which is loaded with `model_dir` as working directory and on the path of imports; or a
                module, whose `_service` has to initialize again.
            model_dir: the model directory; the working directory without one.

        Raises:
            ValueError: there is no such file.
            Exception: whatever the file raised.
        """
        self.model_dir = os.path.abspath(model_dir or os.getcwd())
        self.serving_properties = {**update_properties_with_env_vars({}), **load_properties(self.model_dir)}
        self._runner: asyncio.Runner | None = None
        if isinstance(entry_point, str):
            os.chdir(self.model_dir)
            if self.model_dir not in sys.path:
                sys.path.append(self.model_dir)
            self.service = load_model_service(self.model_dir, entry_point, "-1")
        else:
            if hasattr(entry_point, "_service"):
                entry_point._service.initialized = False
            self.service = ModelService(entry_point, self.model_dir)

    def start_up(self, function_name: str = "handle") -> Any:
        """Makes the call that a server makes first: without content."""
        empty = Input()
        empty.function_name = function_name
        return self.inference(empty)

    def inference(self, inputs: Input) -> Any:
        """Calls the function that the input names, or `handle`.

        Returns:
            What it returned; a list of its Outputs where that is an asynchronous generator.

        Raises:
            Exception: whatever the handler raised.
        """
        for name, value in self.serving_properties.items():
            inputs.properties.setdefault(name, value)
        result = self.service.invoke_handler(inputs.function_name or "handle", inputs)
        if hasattr(result, "__await__") or hasattr(result, "__anext__"):
            return self._run(result)
        return result

    def inference_batch(
        self,
        inputs: Sequence[Any],
        properties: Sequence[Mapping[str, Any]] | None = None,
        serving_properties: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the handler with several requests as one batch."""
        merged = {**self.serving_properties, **(serving_properties or {})}
        return self.inference(create_concurrent_batch_request(inputs, properties, merged))

    def inference_rolling_batch(
        self,
        inputs: Sequence[Any],
        properties: Sequence[Mapping[str, Any]] | None = None,
        serving_properties: Mapping[str, Any] | None = None,
    ) -> dict[int, str]:
        """Calls the handler with a batch until every request has its last frame.

        Returns:
            The joined `data` of each request's frames, by its index.
        """
        texts = dict.fromkeys(range(len(inputs)), "")
        pending = list(texts)
        while pending:
            own = [properties[index] for index in pending] if properties else None
            output = self.inference_batch([inputs[index] for index in pending], own, serving_properties)
            frames = [decode_encoded_output_binary(value) for value in output.content.values]
            for index, frame in zip(list(pending), frames, strict=True):
                texts[index] += frame.get("data", "")
                if frame.get("last", "").lower() == "true":
                    pending.remove(index)
        return texts

    def _run(self, result: Any) -> Any:
        """Completes an answer, always on the same loop, because handlers keep what belongs to it."""
        import asyncio
        import weakref

        if self._runner is None:
            self._runner = asyncio.Runner()
            weakref.finalize(self, self._runner.close)
        return self._runner.run(_complete(result))


async def _complete(result: Any) -> Any:
    if hasattr(result, "__await__"):
        result = await result
    return [output async for output in result] if hasattr(result, "__anext__") else result


def _request(body: bytes | bytearray, kind: str, key: str | None) -> Input:
    request = Input()
    request.properties.update({"device_id": "-1", "content-type": kind})
    request.content.add(key or "data", body)
    return request


def _read(word: str) -> tuple[str, bytes, str]:
    """The name, body and content type of one word of the command line."""
    name, value = "data", word
    if not (word.startswith("{") or os.path.isfile(word)) and "=" in word:
        name, _, value = word.partition("=")
    if os.path.isfile(value):
        with open(value, "rb") as file:
            return name, file.read(), _TYPES.get(os.path.splitext(value)[1].lower(), "application/octet-stream")
    kind = "application/json" if value.startswith("{") and value.endswith("}") else "text/plain"
    return name, value.encode("utf-8"), kind


def _body(output: Any) -> str:
    if not isinstance(output, Output):
        return str(output)
    body = extract_output_as_bytes(output) or b""
    pairs = decode_frame(body)
    if pairs is not None:
        return pairs.get("data") or pairs.get("error", "")
    return bytes(body).decode("utf-8", "replace")


def _main(arguments: Sequence[str] | None = None, write: Callable[[str], Any] = print) -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="python -m djl_python.test_model", description="Runs a model.py by itself.")
    parser.add_argument("--model-dir", required=True, help="the model directory")
    parser.add_argument("--entry-point", default="model.py", help="the file to load; %(default)s")
    parser.add_argument("--handler", default="handle", help="the function to call; %(default)s")
    parser.add_argument("--input", nargs="+", required=True, help="a file, text or JSON, or name=one of these")
    parser.add_argument("--parameters", nargs="*", help="further content, name=value")
    parser.add_argument(
        "--async", action="store_true", dest="async_mode", help="tell the handler option.async_mode=true"
    )
    parser.add_argument("--start-up", action="store_true", help="make the call without content first")
    parser.add_argument("--show-body", action="store_true", help="print the answer's body too")
    chosen = parser.parse_args(arguments)
    request = create_request(chosen.input, chosen.parameters)
    request.function_name = chosen.handler
    tested = TestHandler(chosen.entry_point, chosen.model_dir)
    if chosen.async_mode:
        tested.serving_properties["async_mode"] = "true"
    if chosen.start_up:
        tested.start_up(chosen.handler)
    answer = tested.inference(request)
    for output in answer if isinstance(answer, list) else [answer]:
        write(str(output))
        if chosen.show_body:
            write(_body(output))


if __name__ == "__main__":
    _main()
