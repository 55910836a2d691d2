# SPDX-License-Identifier: Apache-2.0
"""Every output format by the name that schemas give it (`LmiRequest.output_format`). A new format is one row here."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.formatters.base import Formatter
from serving.formatters.bedrock import BedrockFormatter
from serving.formatters.lmi import LmiFormatter
from serving.formatters.rolling_batch import RollingBatchFormatter
from serving.formatters.tgi import TgiFormatter


@dataclass(frozen=True, slots=True)
class Format:
    """One row.

    Attributes:
        formatter: writes the answers.
        streams: `output_formatter` may name the format, and it then is a stream, or is not; None: a schema chooses it.
    """

    formatter: Formatter
    streams: bool | None = None


FORMATS: Mapping[str, Format] = {
    "lmi": Format(LmiFormatter()),
    "json": Format(RollingBatchFormatter(), streams=False),
    "jsonlines": Format(RollingBatchFormatter(), streams=True),
    "sse": Format(RollingBatchFormatter("events"), streams=True),
    "3p": Format(BedrockFormatter()),
    "tgi": Format(TgiFormatter()),
    "tgi_list": Format(TgiFormatter(in_list=True)),
}

NAMES: Mapping[str, bool] = {name: row.streams for name, row in FORMATS.items() if row.streams is not None}
"""What `output_formatter` may say for payloads with `inputs`, and whether the answer then is a stream."""
