# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboard as tests read it: its panels, their queries, and what Grafana makes of these."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

DOCKER = Path(__file__).parents[1] / "docker"
DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana" / "lmi-server.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
_SPECIAL = re.compile(r"[\\$^*{}\[\]'+?.()|]")
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")


class Query(NamedTuple):
    """One of a panel's.

    Attributes:
        name: the panel's title and the query's letter.
        expression: in PromQL, with Grafana's variables.
    """

    name: str
    expression: str

    @property
    def without_default(self) -> str:
        """The expression without what stands in where there are no series yet."""
        return re.split(r" or (?:on\(\) label_replace\()?vector\(0\)", self.expression)[0]


def queries() -> list[Query]:
    """Every query of every panel."""
    return [Query(f"{panel['title']} {one['refId']}", one["expr"]) for panel in PANELS for one in panel["targets"]]


def variable_names(text: str) -> set[str]:
    """Of the variables in `text`."""
    return {first or second for first, second in _VARIABLE.findall(text)}


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """What Grafana sends for `text`.

    Raises:
        KeyError: a variable has no value.
    """
    return _VARIABLE.sub(lambda match: values[match[1] or match[2]], text)


def chosen(value: str) -> str:
    """What Grafana puts in place of a variable whose values may be several when this one is chosen."""
    return _SPECIAL.sub(lambda match: "\\\\" + match[0], value)
