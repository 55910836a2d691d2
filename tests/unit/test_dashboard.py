# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboard and its provisioning, as far as files show; `tests/long/test_dashboard.py` runs its queries."""

import re
from collections import Counter
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from serving import metrics
from tests.dashboard import DASHBOARD, DOCKER, PANELS, VARIABLES, interpolated, queries, variable_names

pytestmark = pytest.mark.pure

GRAFANA_10 = 38
"""The schema of Grafana 10.0; a newer one would not open there."""
BUILT_IN = {"__rate_interval"}
WIDTH = 24
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def series() -> set[str]:
    """The names of ours as Prometheus stores them."""
    described = [one.describe()[0] for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]
    return {metric.name + suffix for metric in described for suffix in SUFFIXES[metric.type]}


def read(path: str) -> Any:
    return yaml.safe_load((DOCKER / path).read_text("utf-8"))


def test_our_metrics_exist() -> None:
    used = {name for query in queries() for name in re.findall(r"\blmi_\w+", query.expression)}
    assert used - series() == set()


def test_our_metrics_are_shown() -> None:
    """Each has its place; sums and counts of histograms need none beside their buckets."""
    text = "\n".join(query.expression for query in queries())
    names = {name for name in series() if not name.endswith(("_sum", "_count"))}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def test_head() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["id"], DASHBOARD["schemaVersion"]) == ("lmi-server", None, GRAFANA_10)


def test_variables() -> None:
    assert list(VARIABLES) == ["datasource", "job", "instance"]
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
    for query in queries():
        assert variable_names(query.expression) <= {*VARIABLES, *BUILT_IN}, query
        selectors = re.findall(r"\{([^}]*)\}", query.expression)
        assert selectors, query
        assert all('job=~"$job", instance=~"$instance"' in selector for selector in selectors), query


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel(panel: dict[str, Any]) -> None:
    """Says what it shows and in which unit, and asks the data source that was chosen."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    letters = [one["refId"] for one in panel["targets"]]
    assert len(set(letters)) == len(letters)
    for one in [panel, *panel["targets"]]:
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_data_source_of_variables() -> None:
    for name in ("job", "instance"):
        assert VARIABLES[name]["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert VARIABLES[name]["query"]["query"] == VARIABLES[name]["definition"]


def test_ids_and_titles_are_unique() -> None:
    for key in ("id", "title"):
        assert [value for value, count in Counter(one[key] for one in DASHBOARD["panels"]).items() if count > 1] == []


def test_layout() -> None:
    """Every panel lies within the grid, on no other one."""
    cells: Counter[tuple[int, int]] = Counter()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0, panel["title"]
        assert at["x"] + at["w"] <= WIDTH, panel["title"]
        cells.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
    assert [cell for cell, count in cells.items() if count > 1] == []


def test_provisioning() -> None:
    """Grafana knows the interval of the scrapes, and looks for dashboards where the document says to put this one."""
    scraped = read("prometheus/prometheus.yml")
    [source] = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    [provider] = read("grafana/provisioning/dashboards/lmi-server.yml")["providers"]
    assert source["type"] == VARIABLES["datasource"]["query"]
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    assert f"`{provider['options']['path']}/lmi-server.json`" in (DOCKER / "README.md").read_text("utf-8")
    assert [one["static_configs"][0]["targets"] for one in scraped["scrape_configs"]] == [["lmi:8080"]]


def test_interpolation_needs_every_value() -> None:
    """What the queries of the long test rest on."""
    assert interpolated('a{b=~"$b"}[${c}]', {"b": "x", "c": "1m"}) == 'a{b=~"x"}[1m]'
    with pytest.raises(KeyError, match="c"):
        interpolated("a[$c]", {})
