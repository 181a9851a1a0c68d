"""The dashboard asks for numbers that are there: ours by name and tags, Ray's by what Ray's own dashboards ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ray.dashboard.modules.metrics.dashboards import default_dashboard_panels

from raydistill.distributed import metrics

DASHBOARD = json.loads((Path(__file__).parents[1] / "docs/clusters/grafana.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
OURS = {f"ray_{name}_total" for name in metrics.COUNTERS} | {f"ray_{name}" for name in metrics.GAUGES}


def asked(query: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", query))


def test_every_number_of_ours_is_drawn() -> None:
    assert {name for query in QUERIES for name in asked(query)} >= OURS


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_asks_for_what_is_there(query: str) -> None:
    theirs = Path(default_dashboard_panels.__file__).read_text().replace("{{", "{")
    for name in asked(query):
        assert name in OURS or name in theirs, name
    for tags in re.findall(r"by \(([^)]*)\)", query):
        known = {"instance", *metrics.BY_STAGE, *(tag for extra in metrics.TAGS.values() for tag in extra)}
        assert {tag.strip() for tag in tags.split(",")} <= known


def test_panels_do_not_lie_over_one_another() -> None:
    spots = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]]
    assert len(set(spots)) == len(spots) == len({p["id"] for p in DASHBOARD["panels"]})
