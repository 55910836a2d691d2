# SPDX-License-Identifier: Apache-2.0
"""Which output format answers a payload: by its own word, by the server's options, or by LMI's mode."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.errors import PayloadError


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the configuration says about payloads that leave it open.

    Attributes:
        mode: LMI's mode, whose format answers where nothing else is asked for.
        output_formatter: as `parameters.output_formatter`, for every payload.
        tgi_compat: rolling batch's shapes with TGI's key names, in both modes.
        greedy: without `do_sample` and `temperature`, async mode does not sample.
        formats: the names that `output_formatter` may have, and whether the answer then is a stream.
    """

    mode: Literal["async", "rolling_batch"] = "async"
    output_formatter: str | None = None
    tgi_compat: bool = False
    greedy: bool = False
    formats: Mapping[str, bool] = field(default_factory=dict)


def choose(name: Any, stream: bool, defaults: Defaults) -> tuple[str, bool]:
    """The format's name, and whether the answer is a stream.

    Args:
        name: `output_formatter` of the payload, or None.
        stream: the client asked for a stream.
        defaults: the server's.

    Raises:
        PayloadError: the format `none`, which LMI has and cannot use.
    """
    wanted = name if name is not None else defaults.output_formatter
    if wanted == "none":
        text = "Input Parsing failed. Ensure that the request payload is valid. None is not a callable object"
        raise PayloadError(text)
    if isinstance(wanted, str) and wanted in defaults.formats:
        return wanted, defaults.formats[wanted]
    if defaults.tgi_compat:
        return "sse" if stream else "json", stream
    if defaults.mode == "async":
        return "lmi", stream
    return "jsonlines" if stream else "json", stream
