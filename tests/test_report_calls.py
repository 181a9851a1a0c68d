"""Accuracy and coverage against network calls, on the pages of one run and of several."""

from __future__ import annotations

import re

import pytest

from raydistill.report.calls import charts, draw
from raydistill.report.comparison import ComparedRun, render

ODD = "<b>mgd3</b>"


def flat(calls: float, last: float, std: float = 0.0, **more: float) -> dict[str, float]:
    return {"network_calls": calls, "accuracy/convnet/mean": last, "accuracy/convnet/std": std, **more}


def test_a_chart_for_each_student_and_one_of_coverage() -> None:
    more = {"mode_coverage_ipc/latent": 0.5, "accuracy/vgg11/mean": 0.2}
    drawn = charts([("a", "pgfm", True, flat(8, 0.4, 0.02, **more)), ("b", "mgd3", False, flat(50, 0.3, **more))])
    titles = ["last top-1 of convnet", "last top-1 of vgg11", "modes covered (latent, M = IPC)"]
    assert [c.title for c in drawn] == titles
    assert [(p.calls, p.mean, p.std, p.main) for p in drawn[0].points] == [(8, 0.4, 0.02, True), (50, 0.3, 0.0, False)]


def test_of_uneven_classes_the_mean_over_them_is_drawn() -> None:
    balanced = {"accuracy/convnet/balanced_mean": 0.2, "accuracy/convnet/balanced_std": 0.03}
    sets = [("a", "pgfm", True, flat(8, 0.4, **balanced)), ("b", "mgd3", False, flat(50, 0.3, **balanced))]
    (chart,) = charts(sets, "balanced")
    assert chart.title == "last accuracy a class of convnet"
    assert [(p.mean, p.std) for p in chart.points] == [(0.2, 0.03)] * 2


def test_sets_that_ask_no_network_and_equal_calls_are_no_chart() -> None:
    real = {"accuracy/convnet/mean": 0.9}
    assert charts([("a", "pgfm", True, flat(8, 0.4)), ("b", "random", False, real)]) == ()
    assert charts([("a", "pgfm", True, flat(8, 0.4)), ("b", "dit", False, flat(8, 0.3))]) == ()


def test_calls_stand_on_a_logarithmic_scale_and_higher_is_better() -> None:
    sets = [(f"pgfm {n}", "pgfm", True, flat(n, last)) for n, last in ((4, 0.2), (8, 0.3), (16, 0.4))]
    (chart,) = charts(sets)
    at = re.findall(r'<circle class="point main" cx="([\d.]+)%" cy="([\d.]+)"', draw(chart))
    x, y = ([float(v) for v in c] for c in zip(*at, strict=True))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.02)
    assert y[0] > y[1] > y[2]


def test_sets_that_are_all_alike_stand_on_a_scale_with_their_names_apart() -> None:
    (chart,) = charts([(n, n, False, flat(calls, 1.0)) for n, calls in (("pgfm", 8), ("dit", 50), ("mgd3", 50))])
    text = draw(chart)
    ticks = re.findall(r'text-anchor="end"[^>]*>([\d.]+)<', text)
    assert ticks[-1] == "100" and len(set(ticks)) == len(ticks) >= 3
    words = re.findall(r'<text class="name \w+" x="(.*?)" y="(.*?)">(\w+)<', text)
    at = {name: (x, float(y)) for x, y, name in words}
    assert at["dit"][0] == at["mgd3"][0] and abs(at["dit"][1] - at["mgd3"][1]) == 15


def test_points_of_a_line_are_joined_and_named_once() -> None:
    sets = [(f"run {n}", "pgfm", False, flat(n, 0.3, 0.01)) for n in (4, 8, 16)]
    text = draw(charts([*sets, ("run d", ODD, False, flat(50, 0.3))])[0])
    assert text.count('<line class="curve') == 2 and text.count('<text class="name') == 2
    assert text.count('<line class="error"') == 3
    assert "&lt;b&gt;mgd3" in text and "<b>" not in text and "run 4: 4 calls, 30.0 %" in text


def test_compared_runs_are_drawn_by_their_methods() -> None:
    def run(name: str, method: str, numbers: dict[str, float]) -> ComparedRun:
        return ComparedRun(name, numbers, {"method": method, "ipc": 1, "seed": 0}, {}, 1)

    page = render([run("one", "pgfm", flat(8, 0.4)), run("two", "mgd3", flat(50, 0.3))])
    assert "What it costs to sample" in page and "two: 50 calls, 30.0 %" in page
    assert "What it costs to sample" not in render([run("one", "pgfm", flat(8, 0.4)), run("two", "dit", {})])
