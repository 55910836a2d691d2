# SPDX-License-Identifier: Apache-2.0
"""Every output format by the name that schemas give it (`LmiRequest.output_format`)."""

from collections.abc import Mapping

from serving.formatters.base import Formatter
from serving.formatters.bedrock import BedrockFormatter
from serving.formatters.lmi import LmiFormatter
from serving.formatters.rolling_batch import RollingBatchFormatter
from serving.formatters.tgi import TgiFormatter

FORMATS: Mapping[str, Formatter] = {
    "lmi": LmiFormatter(),
    "json": RollingBatchFormatter(),
    "jsonlines": RollingBatchFormatter(),
    "sse": RollingBatchFormatter("events"),
    "3p": BedrockFormatter(),
    "tgi": TgiFormatter(),
    "tgi_list": TgiFormatter(in_list=True),
}
