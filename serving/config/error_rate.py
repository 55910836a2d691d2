# SPDX-License-Identifier: Apache-2.0
"""Reads LMI's notation of an error rate: `5`, or `5/PT10M` with an ISO 8601 duration."""

import re
from dataclasses import dataclass
from typing import Any

_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_UNITS_S = (86400, 3600, 60, 1)


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """So many errors may happen within the window; the next one is too many."""

    count: int
    window_s: float


def parse_error_rate(value: Any) -> ErrorRate:
    """The limit that a text means; without a duration it is per minute.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, ErrorRate):
        return value
    count, _, duration = str(value).strip().partition("/")
    match = _DURATION.fullmatch((duration or "PT1M").upper())
    if not count.isdigit() or match is None or not any(match.groups()):
        raise ValueError("expected a number, or a number and a duration such as 5/PT10M")
    seconds = sum(float(part) * unit for part, unit in zip(match.groups(), _UNITS_S, strict=True) if part)
    return ErrorRate(int(count), seconds)
