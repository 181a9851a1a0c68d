"""The report beyond the scores: lines with bands, classes, what is taken for what, one embedding, guidance's trace."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from test_report import report as page_data

from raydistill.report import classes, lines
from raydistill.report.data import (
    ClassScores,
    ClassSeries,
    Confusion,
    Curves,
    Embedding,
    GuidanceEnd,
    GuidanceTrace,
    Line,
)
from raydistill.report.page import learning, render
from raydistill.report.projection import plane
from raydistill.results import detail
from raydistill.stages.syntheses.numbers import counted
from raydistill.store import schemas

ODD = 'cat, <b>"tom"</b> & co'
LINE = Line("mgd3", np.array([10.0, 20.0, 30.0]), np.array([0.1, 0.4, 0.5]), np.array([0.0, 0.1, 0.05]), True)
PALETTE = re.compile(r"--([\w-]+): #([0-9a-f]{6})\b")
FLAT = Line(ODD, np.array([10.0, 30.0]), np.array([0.2, 0.2]), np.zeros(2))


def numbers(svg: str, tag: str) -> list[list[tuple[float, float]]]:
    polylines = re.findall(rf"<{tag}[^>]*points=\"([^\"]*)\"", svg)
    return [[tuple(map(float, p.split(","))) for p in points.split()] for points in polylines]


def test_a_line_goes_where_its_numbers_say() -> None:
    svg = lines.chart([LINE, FLAT], "curves", lambda v: f"{100 * v:.0f}", "visits")
    (first, second), (band,) = numbers(svg, "polyline"), numbers(svg, "polygon")
    assert [x for x, _ in first] == [0, 500, 1000] and [x for x, _ in second] == [0, 1000]
    heights = [y for _, y in first]
    assert heights == sorted(heights, reverse=True), "upwards is up"
    top = 0.6  # the axis ends at the next round number above mean + std
    assert heights == pytest.approx([lines.HEIGHT * (1 - v / top) for v in LINE.mean], abs=0.1)
    assert len(band) == 6 and band[1][1] == pytest.approx(lines.HEIGHT * (1 - 0.5 / top), abs=0.1)


def test_labels_of_the_axis_tell_tests_apart_that_are_close() -> None:
    """Of curves within a point or two, too: 30, 30.5, 31 and not 30, 30, 31."""
    for values in ((0.300, 0.312, 0.318), (0.100, 0.102, 0.104)):
        flat = Line("mgd3", np.array([1000.0, 2000.0, 3000.0]), np.array(values), np.zeros(3), True)
        _, drawn, _ = learning(Curves("convnet", (flat,)))
        labels = re.findall(r">([\d.]+)<", str(drawn).split("1,000")[0])
        steps = np.diff([float(label) for label in labels])
        assert len(steps) > 2 and steps == pytest.approx(steps[0], abs=1e-9), labels


def test_a_line_counts_each_draw_of_a_set_once() -> None:
    """Two trainings on one draw and one on another: as in the scores, their means are two values, and the band is
    theirs."""
    curves = {"one": [(0.2, 0.4), (0.4, 0.6)], "two": [(0.5, 0.9)]}
    trained = [(draw, [(10, a), (20, b)]) for draw, values in curves.items() for a, b in values]
    line = detail.band("mgd3", trained)
    assert line.mean.tolist() == pytest.approx([0.4, 0.7])
    assert line.std.tolist() == pytest.approx([0.1 * np.sqrt(2), 0.2 * np.sqrt(2)])
    alone = detail.band("mgd3", trained[:2])
    assert alone.mean.tolist() == pytest.approx([0.3, 0.5]) and alone.std.tolist() == pytest.approx(
        [0.2 / np.sqrt(2)] * 2
    )


def test_a_falling_axis_starts_with_the_noisiest_step() -> None:
    svg = lines.chart([LINE], "trace", str, "step", falling=True)
    assert [x for x, _ in numbers(svg, "polyline")[0]] == [1000, 500, 0]
    assert svg.index(">30<") < svg.index(">10<")


def test_nothing_to_draw_is_nothing() -> None:
    nan = Line("x", np.array([1.0]), np.array([np.nan]), np.zeros(1))
    assert lines.chart([nan], "", str, "") == "" and lines.chart([], "", str, "") == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.013), (-3, 7), (0.2, 0.2), (0, 4321)])
def test_axes_end_at_round_numbers_around_the_values(low: float, high: float) -> None:
    marks = lines.nice(low, high)
    assert marks[0] <= low and marks[-1] >= high and 2 <= len(marks) <= 8
    assert np.ptp(np.diff(marks)) < 1e-9 * max(1, abs(high))


def test_names_cannot_break_the_page() -> None:
    scores = ClassScores("convnet", (ODD, "dog"), (ClassSeries(ODD, np.array([0.2, 0.9]), True),))
    confusion = Confusion("convnet", "mgd3", (ODD, "dog"), np.array([[0.2, 0.8], [0.1, 0.9]]))
    points = Embedding(np.zeros((2, 2)), np.array([0, 1]), np.ones((1, 2)), np.array([0]), (ODD, "dog"), "how")
    for svg in (
        classes.accuracy(scores), classes.confusion(confusion), classes.embedding(points), lines.legend([FLAT]),
        lines.chart([FLAT], ODD, str, ODD),
    ):  # fmt: skip
        assert "<b>" not in svg and "&lt;b&gt;" in svg


def test_the_worst_class_comes_first() -> None:
    scores = ClassScores("c", ("a", "b", "c"), (ClassSeries("mgd3", np.array([0.5, 0.1, 0.9]), True),))
    assert re.findall(r'class="name"[^>]*>(\w)', classes.accuracy(scores)) == ["b", "a", "c"]


def test_the_most_frequent_mistake_is_named_first_and_being_right_is_none() -> None:
    confusion = Confusion("c", "mgd3", ("a", "b", "c"), np.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.7, 0.0, 0.3]]))
    assert classes.mistakes(confusion) == [("c", "a", 0.7), ("a", "b", 0.1)]
    assert "c taken for a: 70.0 %" in classes.confusion(confusion)


def test_rows_and_columns_of_the_confusion_carry_the_names_of_the_classes() -> None:
    drawn = classes.confusion(Confusion("c", "s", ("tench", "church"), np.eye(2)))
    assert drawn.count(">tench</text>") == drawn.count(">church</text>") == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("cell", ["bound", "accent"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_digits_in_the_confusion_are_legible(scheme: str, cell: str, share: float) -> None:
    """WCAG 2.1: contrast of at least 4.5 of the ink on the cell's colour over its ground."""
    palette = colours_of(scheme)
    opacity = float(re.findall(r'opacity="([0-9.]+)"', classes.confusion(pair(share)))[0]) if share >= 0.005 else 0.06
    over = [opacity * c + (1 - opacity) * g for c, g in zip(palette[cell], palette["fill"], strict=True)]
    light, dark = sorted((luminance(over), luminance(palette["ink"])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def pair(share: float) -> Confusion:
    return Confusion("c", "s", ("a", "b"), np.array([[share, 1 - share], [0.0, 1.0]]))


def colours_of(scheme: str) -> dict[str, list[float]]:
    css = (Path(classes.__file__).parent / "style.css").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    text = light if scheme == "light" else dark.split("\n}\n")[0]
    return {name: [int(hexa[i : i + 2], 16) / 255 for i in (0, 2, 4)] for name, hexa in PALETTE.findall(text)}


def luminance(rgb: list[float]) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_many_classes_are_listed_but_not_drawn() -> None:
    k = classes.MAX_SQUARE + 1
    names = tuple(map(str, range(k)))
    assert classes.confusion(Confusion("c", "s", names, np.eye(k))) == ""
    assert (
        classes.accuracy(ClassScores("c", names, (ClassSeries("s", np.linspace(0, 1, k), True),))).count('class="name"')
        == classes.MAX_ROWS
    )


class TestPlane:
    def test_groups_far_apart_stay_apart(self) -> None:
        rng = np.random.default_rng(0)
        centres = 20 * rng.standard_normal((3, 16))
        real = np.concatenate([c + rng.standard_normal((20, 16)) for c in centres])
        synthetic = centres + 0.1
        points, how = plane(real, synthetic)
        assert points.shape == (63, 2) and "t-SNE" in how
        groups = [points[20 * i : 20 * i + 20] for i in range(3)]
        for i, group in enumerate(groups):
            far = [np.linalg.norm(points[60 + i] - g.mean(0)) for g in groups]
            assert int(np.argmin(far)) == i, "a synthesis lies with its own class"
            assert np.linalg.norm(group - group.mean(0), axis=1).max() < max(far)

    @pytest.mark.parametrize("real", [np.zeros((40, 8)), np.ones((2, 8))])
    def test_few_or_equal_rows_are_finite_too(self, real: np.ndarray) -> None:
        points, _ = plane(real, real[:1])
        assert points.shape == (len(real) + 1, 2) and np.isfinite(points).all()


class TestEnds:
    """Two slots: landed at 0.4 and 0.6; ways of 1.5 and 2.5 straight lines, told at the last step."""

    def of(self, traces: list, landing: list[float | None]) -> dict[str, tuple[float, float]]:
        nfe = pa.array([2] * len(traces), pa.int32())
        table = pa.table({"landing": pa.array(landing, pa.float32()), "trace": pa.array(traces, schemas.TRACE)})
        distilled = SimpleNamespace(numbers=lambda: counted(table.append_column("nfe", nfe)))
        p = SimpleNamespace(config=SimpleNamespace(method="pgfm"), variants=[SimpleNamespace(growth=None)])
        done = SimpleNamespace(syntheses={"pgfm": distilled}, prepared=p)
        return {e.name: (e.mean, e.std) for e in detail.ends(done)}  # type: ignore[arg-type]

    def trace(self, *entries: tuple[int, str, float]) -> list[dict]:
        return [{"step": s, "name": n, "value": v} for s, n, v in entries]

    def test_of_a_flow(self) -> None:
        ways = [self.trace((1, "detour", 9.0), (0, "detour", d), (1, "push", 0.2)) for d in (1.5, 2.5)]
        ends = self.of(ways, [0.4, 0.6])
        assert ends["Landing"] == pytest.approx((0.5, 0.1)) and ends["Length of the way"] == (2.0, 0.5)

    def test_of_diffusion_and_of_an_unguided_flow(self) -> None:
        assert set(self.of([self.trace((1, "push", 0.2))] * 2, [0.4, 0.6])) == {"Landing"}
        assert set(self.of([self.trace((0, "detour", 1.2))] * 2, [None, None])) == {"Length of the way"}

    def test_picked_images_have_none(self) -> None:
        assert self.of([[], []], [0.4, 0.6]) == {}


def test_the_page_holds_all_of_it() -> None:
    full = replace(
        page_data(),
        curves=(Curves("convnet", (LINE, FLAT)),),
        classwise=(ClassScores("convnet", ("a", "b"), (ClassSeries("mgd3", np.array([0.5, 0.1]), True),)),),
        confusions=(Confusion("convnet", "mgd3", ("a", "b"), np.eye(2)),),
        embedding=Embedding(np.zeros((2, 2)), np.array([0, 1]), np.ones((1, 2)), np.array([0]), ("a", "b"), "by t-SNE"),
        guidance=(GuidanceTrace("Push", "how far", replace(LINE, name="push")),),
        ends=(GuidanceEnd("Landing", "how near", 0.61234, 0.05),),
    )
    page = render(full)
    for heading in ("While they learn", "Class by class", "What guidance did", "Real and distilled in one picture"):
        assert f"{heading}</h2>" in page
    assert "Landing: <strong>0.612 ± 0.05</strong>, how near." in page
    bare = render(page_data())
    assert "What guidance did" not in bare and "While they learn" not in bare
