"""The dashboard asks for numbers that are there: ours by name and tags, Ray's by what its nodes report."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from raydistill.distributed import metrics

DASHBOARD = json.loads((Path(__file__).parents[1] / "docs/clusters/grafana.json").read_text())
PANELS = DASHBOARD["panels"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
TARGETS = [target for panel in PANELS for target in panel["targets"]]
QUERIES = [target["expr"] for target in TARGETS]
OURS = {f"ray_{name}_total" for name in metrics.COUNTERS} | {f"ray_{name}" for name in metrics.GAUGES}
THEIRS = {f"ray_{name}" for name in METRICS_GAUGES}
WIDTH = 24  # columns of a dashboard
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def asked(query: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", query))


def kept(query: str) -> set[str]:
    """The labels that the series of a query have: those of the outermost sum, or a node's."""
    outermost = re.match(r"\w+ by \(([^)]*)\)", query)
    return {tag.strip() for tag in outermost[1].split(",")} if outermost else {"instance"}


def unit(query: str) -> str:
    """What a query's numbers are, in Grafana's words."""
    if "units_left" in query and "rate(" in query:
        return "s"
    if "_bytes_total" in query:
        return "Bps"
    return "percentunit" if re.search(r"utilization\) / 100$|_used / \w+_total$", query) else "short"


def named(panel: dict[str, Any]) -> str:
    return str(panel["title"])


def test_every_number_of_ours_is_drawn() -> None:
    assert {name for query in QUERIES for name in asked(query)} >= OURS


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_asks_for_what_is_there(query: str) -> None:
    assert asked(query) and asked(query) <= OURS | THEIRS
    known = {"instance", *metrics.BY_STAGE, *(tag for extra in metrics.TAGS.values() for tag in extra)}
    for tags in re.findall(r"by \(([^)]*)\)", query):
        assert {tag.strip() for tag in tags.split(",")} <= known


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"])
def test_every_series_has_a_name_of_its_own(target: dict[str, Any]) -> None:
    """A legend names just the labels that the query leaves; of two series with equal ones `or` would drop one."""
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == kept(target["expr"])
    assert " or " not in target["expr"]


@pytest.mark.parametrize("panel", PANELS, ids=named)
def test_a_panel_names_the_source_that_is_chosen_the_unit_and_each_query(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == SOURCE and panel["title"]
    assert all("datasource" not in target or target["datasource"] == SOURCE for target in panel["targets"])
    assert {panel["fieldConfig"]["defaults"]["unit"]} == {unit(target["expr"]) for target in panel["targets"]}
    letters = [target["refId"] for target in panel["targets"]]
    assert letters and len(set(letters)) == len(letters)
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends)


def test_panels_do_not_lie_over_one_another() -> None:
    areas = [panel["gridPos"] for panel in PANELS]
    assert all(a["x"] >= 0 and a["x"] + a["w"] <= WIDTH and a["y"] >= 0 and a["w"] > 0 and a["h"] > 0 for a in areas)
    for a, b in combinations(areas, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or below, (a, b)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_every_variable_is_declared_and_of_the_same_source() -> None:
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) == set(VARIABLES)
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
    for variable in VARIABLES.values():
        if variable["type"] == "query":
            assert variable["datasource"] == SOURCE and asked(variable["query"]) <= OURS


def test_grafana_can_import_it() -> None:
    """By what Grafana's documentation asks of a dashboard's file: no id of a server, an id that links can hold."""
    assert DASHBOARD.get("id") is None and re.fullmatch(r"[\w-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["schemaVersion"] >= 36, "before, a source is known by name and not by uid"
    assert DASHBOARD["title"] and DASHBOARD["time"]["to"] == "now"
