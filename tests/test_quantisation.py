"""How near atoms are to their classes, with weights and without: closed forms, and what a run tells of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import w2_curve
from finished import without_ray
from test_report import report

from raydistill import api
from raydistill.config import load
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.report.atoms import BOTTOM, HEIGHT, TOP, AtomCurve, AtomDistances
from raydistill.report.page import render
from raydistill.results import quantisation
from raydistill.results.quantisation import counts, of_class
from raydistill.stages.runner import serial
from raydistill.store import schemas

RNG = np.random.default_rng(0)


class TestFormulas:
    def test_a_set_is_no_way_from_itself(self) -> None:
        x = RNG.standard_normal((40, 6)).astype(np.float32)
        assert of_class(x, x, np.ones(40)) == (0.0, 0.0, 0.0)

    def test_masses_of_the_cells_are_the_best_and_roots_are_between_them_and_none(self) -> None:
        x, z = (RNG.standard_normal((n, 3)).astype(np.float32) for n in (300, 6))
        mass = np.bincount(np.square(x[:, None] - z).sum(2).argmin(1), minlength=6)
        equal, density, least = of_class(x, z, mass)
        assert equal > of_class(x, z, np.sqrt(mass))[1] > density == pytest.approx(least, rel=1e-6)

    def test_one_atom_has_all_the_mass_there_is(self) -> None:
        x = RNG.standard_normal((30, 2)).astype(np.float32)
        assert of_class(x, np.zeros((1, 2), np.float32), np.array([0.3])) == pytest.approx(
            [np.square(x).sum(1).mean()] * 3
        )

    def test_over_classes_it_is_the_root_of_the_mean_square(self) -> None:
        d = AtomDistances("ddoq", "prototypes", np.array([16.0, 48.0]), np.array([9.0, 9.0]), np.array([4.0, 0.0]))
        assert d.overall() == pytest.approx({"equal": 32**0.5, "weighted": 3.0, "least": 2**0.5})
        assert d.of_class(0) == (4.0, 3.0, 2.0) and d.drop == pytest.approx(1 - 3 / 32**0.5)


class TestFall:
    def of(self, w2: np.ndarray, k: np.ndarray, dim: int = 4) -> AtomCurve:
        squares = np.square(w2)[:, None].repeat(3, 1)
        return AtomCurve("kmeans", k, squares * 2, squares * 1.5, squares, dim, ("tench", "church", "<hr>"))

    def test_its_slope_is_that_of_a_power(self) -> None:
        k = np.array([1, 2, 5, 10])
        assert self.of(3.0 * k**-0.25, k).slope == pytest.approx(-0.25)
        assert self.of(np.array([1.0, 0.5, 0.1, 0.0]), k).slope is None

    def test_each_class_has_a_slope_of_its_own_beside_the_rate(self) -> None:
        k = np.array([1, 2, 5, 10])
        falls = np.stack([3.0 * k**-0.25, 2.0 * k**-0.5, np.array([1.0, 0.5, 0.1, 0.0])], axis=1)
        fall = AtomCurve("clvq", k, 2 * falls**2, falls**2, falls**2, 4, ("tench", "church", "<hr>"))
        slopes = {c.name: c.slope for c in fall.of_classes}
        assert slopes == {"tench": pytest.approx(-0.25), "church": pytest.approx(-0.5), "<hr>": None}
        assert fall.rate == -0.25 and fall.slope is not None
        html = render(report(atoms=(AtomDistances("ddoq", "prototypes", *np.ones((3, 3))),), fall=fall))
        section = html[html.index('id="quantisation"') :]
        assert section.count('<polyline class="curve each"') == 3 and "<hr>" not in section
        rows = re.findall(r"<tr><td>(church|All|&lt;hr&gt;)</td>(.*?)</tr>", section, re.S)
        assert [name for name, _ in rows[:3]] == ["church", "&lt;hr&gt;", "All"]
        assert "0.5" in rows[0][1] and "–</td>" in rows[1][1] and rows[0][1].count("<td") == len(k) + 2

    def test_how_many_atoms_are_tried(self) -> None:
        assert counts(1, 1000) == [1, 2, 5, 10] and counts(50, 1000) == [1, 2, 5, 10, 20, 50]
        assert counts(4, 1000) == [1, 2, 4, 5, 10] and counts(50, 30) == [1, 2, 5, 10] and counts(10, 2) == [1]

    def test_the_page_draws_a_power_straight_and_its_own_rate_upon_it(self) -> None:
        k = np.array([1, 2, 5, 10])
        fall = self.of(3.0 * k**-0.25, k)
        html = render(report(atoms=(AtomDistances("ddoq", "prototypes", *np.ones((3, 2))),), fall=fall))
        section = html[html.index('id="quantisation"') :]
        assert "slope −0.25" in section
        lines = {
            kind: np.array([p.split(",") for p in points.split()], float)
            for kind, points in re.findall(r'<polyline class="curve (rate|line2)" points="([^"]+)"', section)
        }
        np.testing.assert_allclose(lines["rate"], lines["line2"], atol=0.2)
        heights = [float(y) for y in re.findall(r'cy="([^"]+)" r="5"', section)]
        assert [min(heights), max(heights)] == [TOP, HEIGHT - BOTTOM], "from the least to the most of what is drawn"
        steps = np.diff(lines["line2"], axis=0)
        np.testing.assert_allclose(steps[:, 1] / steps[:, 0], steps[0, 1] / steps[0, 0], rtol=0.02)


def test_the_page_shows_each_set_and_class() -> None:
    first = AtomDistances("ddoq", "prototypes", np.array([16.0, 48.0]), np.array([9.0, 9.0]), np.array([4.0, 0.0]))
    html = render(report(atoms=(first,)))
    assert "Atoms and the latents of their class" in html and "47.0 %" in html
    assert "Atoms and the latents" not in render(report())


def test_a_run_tells_how_far_its_atoms_are_before_and_after_weighting(tmp_path: Path) -> None:
    short = ("evaluate.seeds=1", "evaluate.width=8", "evaluate.protocol.visits=16", "evaluate.full=false")
    small = ("method=ddoq", "ipc=4", "source.classes=[3,7]", "sampler.steps=4", "metrics.names=[]")
    asked = load("quickstart", [*small, *short, "evaluate.baselines=[d4m,random]", f"run_dir={tmp_path / 'run'}"])
    with without_ray():
        done = job.run(prepare(asked), execute=serial)
    result = json.loads((tmp_path / "run/result.json").read_bytes())
    w2 = {k: v for k, v in result.items() if "w2/" in k}
    page = (tmp_path / "run/report.html").read_text()
    assert page.count("W2 over the number of atoms") == 1 and page.count('<polyline class="curve each"') == 2
    rows = page[page.index("How W2 falls in each class") :]
    assert "<tr><td>three</td>" in rows and "<tr><td>seven</td>" in rows
    assert {k.partition("w2/")[0] for k in w2} == {"", "metrics/d4m/"}, "of what has atoms that are weighed"
    for what in ("prototypes", "syntheses"):
        equal, weighted, least = (w2[f"w2/{what}/{kind}"] for kind in ("equal", "weighted", "least"))
        assert equal >= least and weighted >= least and equal != weighted
        assert w2[f"metrics/d4m/w2/{what}/equal"] == w2[f"metrics/d4m/w2/{what}/weighted"]
    assert w2["w2/prototypes/weighted"] < w2["w2/prototypes/equal"]
    assert 3 < result["effective_sample_size"] < 4
    falls = [[w2[f"w2/curve/{k}/{kind}"] for k in (1, 2, 4, 5, 10)] for kind in ("equal", "weighted", "least")]
    assert falls[2] == sorted(falls[2], reverse=True) and falls[0][0] == falls[1][0] == falls[2][0]
    assert all(e >= w >= least for e, w, least in zip(*falls, strict=True)) and -0.5 < result["w2/slope"] < 0
    plan, real = done.plans["ddoq"].read(), dict(done.classes.classes(["latent"]))
    error = []
    for c, table in real.items():
        x, z = (
            schemas.tensor_numpy(t[name]).reshape(len(t), -1).astype(np.float64)
            for t, name in ((table, "latent"), (plan.filter(plan["class_index"].to_numpy() == c), "prototype"))
        )
        error.append(np.square(x[:, None] - z).sum(2).min(1).mean())
    assert w2["w2/prototypes/least"] == pytest.approx(np.mean(error) ** 0.5, rel=1e-4)
    assert "Atoms and the latents of their class" in (tmp_path / "run/report.html").read_text()


class TestCurve:
    """benchmarks/results/w2_curve.py"""

    def test_its_slope_is_that_of_the_rate(self) -> None:
        ipc = [1, 2, 5, 10]
        assert w2_curve.slope(ipc, [k ** (-2 / 7) for k in ipc]) == pytest.approx(-1 / 7)
        assert w2_curve.slope([3], [1.0]) is None and w2_curve.slope([1, 2], [1.0, 0.0]) is None

    def test_an_algorithm_may_have_settings_of_its_own(self) -> None:
        name, config = w2_curve.configured("clvq,cluster.batch=100,cluster.passes=2", "quickstart", ["ipc=3"])
        assert name == "clvq" and (config.cluster.batch, config.cluster.passes, config.ipc) == (100, 2, 3)
        assert w2_curve.configured("clvq", "quickstart", [])[1].cluster.batch is None

    def test_weights_bring_every_class_nearer_and_all_points_are_there_in_the_end(self) -> None:
        x = RNG.standard_normal((40, 3, 1, 1)).astype(np.float16)
        latents = api.Latents(x, np.repeat(np.int32([0, 1]), 20), [str(i) for i in range(40)], ["a", "b"])
        curve = w2_curve.measured(latents, load("quickstart", []), "clvq", [1, 4, 20])
        equal, roots, density = (np.array(curve["squares"][mode]) for mode in ("equal", "sqrt", "density"))
        assert (equal[1] > roots[1]).all() and (roots[1] > density[1]).all() and equal[0] == pytest.approx(density[0])
        assert curve["alone"][0] == 0 and curve["alone"][2] == 1, "an atom a point"
        assert (equal[2] == 0).all() and curve["slopes"] == {"a": None, "b": None}
        text = w2_curve.markdown([1, 4, 20], {"clvq": curve}, 3)
        assert "| clvq | all | – | – | -0.33333 |" in text and text.count("| clvq |") == 3 + 3


def test_a_set_that_grew_has_no_prototypes_as_a_whole() -> None:
    """Its plan is that of an increment: four slots of the eight that the set has."""

    def rows(slots: int, **columns: pa.Array) -> SimpleNamespace:
        place = {name: pa.array(range(slots), pa.int32()) for name in schemas.PLACE}
        return SimpleNamespace(read=pa.table({**place, **columns}).select)

    x = schemas.tensor_array(np.ones((8, 1, 2, 2), np.float32))
    images = rows(8, weight=pa.array(np.ones(8)), latent=x)
    for planned in (4, 8):
        done = SimpleNamespace(plans={"lgd": rows(planned, prototype=x[:planned])}, syntheses={"lgd": images})
        assert ("prototypes" in quantisation._atoms(done, "lgd")) == (planned == 8)
