"""The plane on which a class is drawn, and the nearest real image of a synthesis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_report import panel, report

from raydistill.report.page import render
from raydistill.report.projection import nearest, project, spread


@pytest.mark.parametrize("rows", [30, 300])
def test_points_on_a_plane_are_recovered(rows: int) -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(rows, 2)) * (3, 1)
    basis = np.linalg.qr(rng.normal(size=(64, 2)))[0].T
    real = (flat @ basis + 5).astype(np.float32)
    drawn = project(real, real[:4], real[4:9])
    assert drawn.explained == pytest.approx(1.0, abs=1e-6)
    gaps = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    assert np.allclose(np.linalg.norm(drawn.real[:, None] - drawn.real[None], axis=2), gaps, atol=1e-4)
    assert np.allclose(drawn.real[:4], drawn.prototypes) and np.allclose(drawn.real[4:9], drawn.syntheses)
    assert np.var(drawn.real[:, 0]) >= np.var(drawn.real[:, 1])


def test_both_routes_agree_and_the_sign_is_fixed() -> None:
    rng = np.random.default_rng(1)
    real = rng.normal(size=(20, 20)) * np.linspace(3, 1, 20)
    wide = np.pad(real, ((0, 0), (0, 5)))  # D > N: Gram matrix; D <= N: scatter matrix
    a, b = project(real, real[:2], real[:2]), project(wide, wide[:2], wide[:2])
    assert np.allclose(a.real, b.real) and a.explained == pytest.approx(b.explained)
    again = project(real, real[:2], real[:2])
    assert np.array_equal(a.real, again.real)


@pytest.mark.parametrize(
    "real",
    [np.ones((1, 7)), np.full((9, 7), 0.1), np.zeros((3, 7)), np.zeros((0, 7)), np.outer(np.arange(5), np.ones(7))],
)
def test_degenerate_points_stay_finite(real: np.ndarray) -> None:
    drawn = project(real.astype(np.float16), np.ones((2, 7)), np.zeros((0, 7)))
    for points in (drawn.real, drawn.prototypes, drawn.syntheses):
        assert points.shape[1] == 2 and np.isfinite(points).all()
    assert 0 <= drawn.explained <= 1
    html = render(report(panels=(replace(panel(0, 0), projection=drawn),)))
    assert "nan" not in html


def test_more_rows_than_the_fit_takes() -> None:
    real = np.random.default_rng(2).normal(size=(2300, 6))
    assert len(project(real, real[:1], real[:1]).real) == 2300
    picked = spread(2300, 1000)
    assert len(set(picked.tolist())) == 1000 and picked[0] == 0 and picked.max() < 2300


def test_nearest_equals_brute_force() -> None:
    rng = np.random.default_rng(3)
    real, synthetic = rng.normal(size=(700, 33)), rng.normal(size=(11, 33))
    synthetic[3], real[600] = real[500], real[500]
    index, distance = nearest(synthetic, real)
    gaps = np.linalg.norm(synthetic[:, None] - real[None], axis=2)
    assert index.tolist() == gaps.argmin(1).tolist() and np.allclose(distance, gaps.min(1))
    assert index[3] == 500 and distance[3] == 0
    with pytest.raises(ValueError, match="no real latent"):
        nearest(synthetic, real[:0])
