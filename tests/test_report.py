"""The report page, its projection and plots, and the dataset card."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raydistill.report import page, plots, text
from raydistill.report.data import (
    ClassPanel,
    Difference,
    Judgement,
    MetricRow,
    PanelImage,
    Projection,
    ReportData,
    StageCost,
)
from raydistill.report.page import render
from raydistill.report.projection import project
from raydistill.report.scores import FULL, RANDOM, ScoreRow

NAUGHTY = '<b>&"/, {{ 7*7 }}'
VOID = {"meta", "link", "img", "br", "hr", "input"}


def png(value: int, side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def panel(index: int, items: int, name: str = "") -> ClassPanel:
    rng = np.random.default_rng(index)
    shades = [(7 * index + s) % 256 for s in range(items)]
    images = tuple(
        PanelImage(s, png(v), 1.25 + s, s, png(255 - v), f"real/{index}_{s}.png", 3.5 + s) for s, v in enumerate(shades)
    )
    return ClassPanel(
        f"n{index:08d}",
        name or f"class {index}",
        40,
        images,
        project(rng.normal(size=(40, 12)), rng.normal(size=(items, 12)), rng.normal(size=(items, 12))),
    )


def judged(*differences: Difference, scored: tuple[ScoreRow, ...] | None = None, **more: Any) -> Judgement:
    return Judgement(scores() if scored is None else scored, 0.1, differences, **more)


def scores(main: float = 0.521, std: float = 0.008, seeds: int = 3) -> tuple[ScoreRow, ...]:
    return (
        ScoreRow("mgd3", "convnet", seeds, main, _std(std, seeds), main + 0.013, _std(0.006, seeds), 6, True, main),
        ScoreRow(RANDOM, "convnet", seeds, 0.458, _std(0.011, seeds), 0.472, _std(0.009, seeds), 6, False, 0.458),
        ScoreRow(FULL, "convnet", seeds, 0.852, _std(0.003, seeds), 0.861, _std(0.002, seeds), 80, False, 0.852),
    )


def _std(value: float, seeds: int) -> float | None:
    return value if seeds > 1 else None


def between(a: str, b: str, gap: float, half: float, tested: float = 0.0, **more: Any) -> Difference:
    """Set `a` minus set `b` over three training seeds, with an interval of `half` and one with the test images."""
    outer = tested or half
    plain = Difference(
        a, b, "convnet", "top-1", gap, 3, 3, 1, float(gap > 0),
        low=gap - half, high=gap + half, tested_low=gap - outer, tested_high=gap + outer, p=0.01, holm=0.02, needed=9,
    )  # fmt: skip
    return replace(plain, **more)


def report(**changes: object) -> ReportData:
    base = ReportData(
        title="Digits",
        method="mgd3",
        ipc=3,
        seed=7,
        image_size=8,
        panels=(panel(0, 3), panel(1, 3)),
        costs=(
            StageCost("encode", 20.0, 500, "images", False),
            StageCost("group", 0.4, 2, "buckets", True),
            StageCost("sample", 93.0, 6, "images", False),
        ),
        judgement=judged(between("mgd3", RANDOM, 0.063, 0.02)),
        config_yaml="ipc: 3\nmethod: mgd3\n",
        command="python jobs/distill.py ipc=3 seed=7",
        notes=("1 image was skipped: a<b.png",),
        protocol="hard labels, 20,000 visits",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Reader(HTMLParser):
    """Collects what the page would fetch, its images and its text; fails on tags that do not close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetches: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        values = dict(attrs)
        self.fetches += [v or "" for k, v in attrs if k in {"src", "href", "srcset", "data", "poster", "action"}]
        if tag == "img":
            self.images.append(values)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# ---- page ----------------------------------------------------------------------------------------------------------


def test_metrics_are_a_table_with_a_column_a_set() -> None:
    fid = MetricRow("fid", "squeezenet1_0", "lower", (12.345, 20.0))
    rows = (fid, MetricRow("kid_std", "latent", None, (None, 0.5)))
    read = Reader(render(report(metric_sets=("mgd3", "random"), metrics=rows)))
    assert "Metric Compared in Better mgd3 random" in read.text
    assert "fid squeezenet1_0 lower 12.3 20 kid_std latent – 0.5" in read.text
    assert "Compared in" not in Reader(render(report())).text


def test_the_best_of_a_metric_is_marked_and_one_that_tells_nothing_apart_says_so() -> None:
    assert MetricRow("fid", "latent", "lower", (12.0, None, 9.0)).best == (2,)
    assert MetricRow("recall", "latent", "higher", (0.5, 0.5, 0.1)).best == (0, 1)
    assert MetricRow("kid_std", "latent", None, (1.0, 2.0)).best == ()
    assert MetricRow("recall", "latent", "higher", (0.99996, 1.0, 0.1)).best == (0, 1), (
        "what prints alike is marked alike"
    )
    mmd = MetricRow("mmd", "latent", "lower", (0.0, 0.0))
    assert mmd.says_nothing and mmd.best == () and not MetricRow("mmd", "latent", "lower", (0.0,)).says_nothing
    read = Reader(render(report(metric_sets=("mgd3", "random"), metrics=(mmd,))))
    assert "mmd latent says nothing here: the same for every set" in read.text


def test_contents_lead_to_every_section() -> None:
    html = render(report())
    headings = re.findall(r'<h2 id="([^"]+)"', html)
    assert len(headings) > 3 and re.findall(r'<li><a href="#([\w-]+)">', html.split("</nav>")[0]) == headings


def test_stages_stand_in_the_order_of_the_pipeline() -> None:
    def costs(*names: str) -> list[str]:
        rows = page._costs(tuple(StageCost(n, 1.0, 1, "images", False) for n in names))
        return [row.cost.stage for row in rows]

    assert costs("check mgd3", "evaluate", "cluster", "sample mgd3", "own", "plan mgd3", "encode", "plan dit") == [
        *("encode", "cluster", "plan dit", "plan mgd3", "sample mgd3", "check mgd3", "evaluate", "own")
    ]


def test_page_is_one_file_that_fetches_nothing() -> None:
    html = render(report())
    read = Reader(html)
    assert html.startswith("<!doctype html>")
    beside = {target for target, _ in page.BESIDE}
    assert {f for f in read.fetches if not f.startswith(("data:", "#"))} == beside, "links to what lies in the run"
    assert not re.search(r"https?:|@import|url\(", html)
    assert "script" not in read.tags and "iframe" not in read.tags
    assert "default-src 'none'" in html
    assert html == render(report())


def test_markup_in_names_survives_as_text() -> None:
    html = render(
        report(
            title=NAUGHTY,
            panels=(panel(0, 2, NAUGHTY), panel(1, 2)),
            command=NAUGHTY,
            method=NAUGHTY,
            judgement=judged(scored=(replace(scores()[0], set=NAUGHTY, student=NAUGHTY),)),
        )
    )
    read = Reader(html)
    assert read.tags.count("b") == 2  # the two numbers of the headline
    assert read.text.count(NAUGHTY) >= 7
    assert "49" not in read.text
    assert any(NAUGHTY in (i["alt"] or "") for i in read.images)


def test_every_synthesis_and_its_nearest_image_is_there() -> None:
    data = report()
    html = render(data)
    for item in (i for p in data.panels for i in p.items):
        assert base64.b64encode(item.image).decode() in html
        assert item.nearest and base64.b64encode(item.nearest).decode() in html
        assert item.nearest_id in html
    images = Reader(html).images
    assert len(images) == 12 and all(i["alt"] and i["loading"] == "lazy" for i in images)
    assert 'class="pixelated"' in html
    assert 'class="pixelated"' not in render(report(image_size=64))


def test_numbers_equal_the_inputs() -> None:
    words = Reader(render(report())).text
    for expected in (
        "80 real",
        "6 distilled images",
        "13.3 : 1",
        "52.1 ± 0.8",
        "53.4 ± 0.6",
        "45.8 ± 1.1",
        "47.2 ± 0.9",
        "85.2 ± 0.3",
        "chance, 10.0 %",
        "25 images/s",
        "1 min 33 s",
        "16 s each",
        "reused",
        "1 min 53 s",
        "w 1.25",
        "L2 3.5",
        "40 real → 3 distilled",
        "hard labels, 20,000 visits",
        "ipc: 3 method: mgd3",
        "python jobs/distill.py ipc=3 seed=7",
        "1 image was skipped: a<b.png",
    ):
        assert expected in words, expected


def test_totals_can_be_given() -> None:
    words = Reader(render(report(total_classes=1000, total_real=1_281_167, total_images=3000))).text
    assert "1,281,167 real" in words and "The first 2 of 1,000 classes are shown" in words


def test_without_scores_costs_notes_or_projection() -> None:
    bare = tuple(replace(p, projection=None) for p in report().panels)
    words = Reader(render(report(judgement=judged(scored=()), costs=(), notes=(), panels=bare))).text
    assert "Not evaluated" in words and "Accuracy" not in words and "Notes" not in words and "prototype" not in words
    assert "0 distilled" in Reader(render(report(panels=(), judgement=judged(scored=())))).text


def test_missing_nearest_image() -> None:
    items = tuple(replace(i, nearest=None, nearest_id="", distance=float("nan")) for i in panel(0, 2).items)
    words = Reader(render(report(panels=(replace(panel(0, 2), items=items),)))).text
    assert words.count("no real image") == 2 and "L2 " not in words.replace("L2 distance", "")


def test_many_slots_fold_and_many_classes_are_capped() -> None:
    html = render(report(panels=(panel(0, 60),)))
    read = Reader(html)
    assert len(read.images) == 100 and "40 more" in read.text and "10 further slots left out" in read.text
    read = Reader(render(report(panels=tuple(panel(i, 1) for i in range(60)))))
    assert len(read.images) == 100 and "The first 50 of 60 classes are shown" in read.text


def test_heavy_images_are_shown_as_small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "IMAGE_BUDGET", 10)
    read = Reader(render(report()))
    assert "lossy copies" in read.text
    assert all((i["src"] or "").startswith("data:image/webp") for i in read.images)


# ---- words ---------------------------------------------------------------------------------------------------------


def test_accuracy_plot_says_what_it_shows() -> None:
    svg = str(plots.accuracy(scores(), 0.1))
    assert "mgd3, convnet: 52.1 ± 0.8 %" in svg and "Chance: 10.0 %" in svg
    assert svg.count("<rect") == 3 and svg.count('class="bound"') == 3 and svg.count('class="chance"') == 3
    assert plots.axis_top(scores(), 0.1) == pytest.approx(0.9)
    assert f'width="{52.1 / 0.9:.2f}%"' in svg
    assert str(plots.accuracy((), 0.1)) == ""


def test_scatter_ties_each_synthesis_to_its_prototype_and_caps_the_points() -> None:
    shape = Projection(np.arange(4000.0).reshape(2000, 2), np.zeros((2, 2)), np.array([[1.0, 2.0], [np.nan, 3.0]]), 0.5)
    items = [replace(i, prototype_id=p) for i, p in zip(panel(0, 2).items, (1, -1), strict=True)]
    svg = str(plots.scatter(shape, items, NAUGHTY))
    assert svg.count("h0") == plots.MAX_POINTS and svg.count("L") - svg.count("Latents") == 1
    assert svg.count('class="prototype"') == 2 and svg.count('class="synthesis"') == 2
    assert "nan" not in svg and "<b>" not in svg


def test_numbers_in_words() -> None:
    said = {0.03: "0.03 s", 12.4: "12 s", 59.7: "1 min 0 s", 3599.9: "1 h 0 min", 7380: "2 h 3 min"}
    assert {s: text.duration(s) for s in said} == said
    assert [text.number(v) for v in (0.07894, 12.0, 1234.5, float("inf"))] == ["0.0789", "12", "1,234", "–"]
    assert [text.number(v) for v in (999.4, 999.6, -999.7, 1000.0)] == ["999", "1,000", "−1,000", "1,000"]
    assert (
        text.number(-0.25) == "−0.25"
        and text.minus("-1.3 points [-4.5, 1.9] of x-2") == "−1.3 points [−4.5, 1.9] of x-2"
    )
    assert StageCost("a", 0.0, 5, "x", False).rate is None and StageCost("a", 2.0, 5, "x", True).rate is None


def test_a_deviation_is_never_rounded_away() -> None:
    """Several trainings that are nearly the same show how nearly; ± 0 is left for those that are the same."""
    said = {0.0082: "52.1 ± 0.8", 0.0005: "52.1 ± 0.1", 0.00035: "52.1 ± 0.04", 0.000003: "52.1 ± 0.0003"}
    assert {std: text.spread(0.521, std) for std in said} == said
    assert text.spread(0.1, 0.0) == text.spread(0.1, 1e-17) == "10.0 ± 0"
    assert text.spread(0.1, None) == text.spread(0.1, float("nan")) == "10.0"
