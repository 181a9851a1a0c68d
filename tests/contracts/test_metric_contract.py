"""What every registered metric must keep. A new file is picked up by itself."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from raydistill import registry
from raydistill.metrics.base import Metric

pytestmark = pytest.mark.parametrize("name", registry.names("metric"))

Set = tuple[np.ndarray, np.ndarray, np.ndarray]


def make(name: str, classes: int = 3, seed: int = 0) -> Metric:
    return registry.get("metric", name)(classes, seed)


def drawn(n: int, key: int = 0, width: int = 6, classes: int = 3, shift: float = 0.0) -> Set:
    """Rows about a mean of their class, their labels, and unequal weights."""
    rng = np.random.default_rng(key)
    y = np.arange(n) % classes
    means = np.random.default_rng(99).standard_normal((classes, width)) * 2 + 1 + shift
    return (rng.standard_normal((n, width)) + means[y]).astype(np.float32), y, rng.uniform(0.5, 2, n)


def computed(name: str, real: Set, synthetic: Set, classes: int = 3, seed: int = 0) -> dict[str, float]:
    metric = make(name, classes, seed)
    metric.update_real(*real[:2])
    metric.update_synthetic(*synthetic)
    return metric.compute()


def rows(s: Set, at: object) -> Set:
    return s[0][at], s[1][at], s[2][at]


def equal(s: Set) -> Set:
    return s[0], s[1], np.ones(len(s[0]))


def test_it_says_what_it_is(name: str) -> None:
    metric = registry.get("metric", name)
    assert metric.name == name and metric.space in ("feature", "latent", "both")
    assert metric.summary and "\n" not in metric.summary and metric.__doc__
    names = [value.name for value in metric.values]
    assert names and len(set(names)) == len(names) and all("/" not in n and " " not in n for n in names)


def test_values_are_finite_and_announced(name: str) -> None:
    values = computed(name, drawn(60), drawn(12, 1))
    assert list(values) and set(values) <= {value.name for value in registry.get("metric", name).values}
    assert all(type(v) is float and math.isfinite(v) for v in values.values())


def test_a_set_against_itself_is_ideal(name: str) -> None:
    real = equal(drawn(60))
    values = computed(name, real, real)
    for value in registry.get("metric", name).values:
        if value.ideal is not None:
            short = values[value.name] - value.ideal
            assert (short if value.better == "lower" else -short) <= 1e-5, (value, values)


def test_a_set_far_away_is_no_better(name: str) -> None:
    near, far = (computed(name, drawn(60), equal(drawn(60, shift=shift))) for shift in (0, -40))
    for value in registry.get("metric", name).values:
        if value.ideal is not None:
            gain = far[value.name] - near[value.name]
            assert (-gain if value.better == "lower" else gain) <= 1e-5, (value, near, far)


def test_batches_do_not_matter(name: str) -> None:
    real, synthetic = drawn(60), drawn(13, 1)
    metric = make(name)
    for at in (slice(0, 1), slice(1, 1), slice(1, 40), slice(40, 60)):
        metric.update_real(*rows(real, at)[:2])
    for at in (slice(0, 12), slice(12, 13)):
        metric.update_synthetic(*rows(synthetic, at))
    assert metric.compute() == pytest.approx(computed(name, real, synthetic), rel=1e-6, abs=1e-7)


def test_order_does_not_matter(name: str) -> None:
    real, synthetic = drawn(60), drawn(13, 1)
    rng = np.random.default_rng(5)
    turned = rows(real, rng.permutation(60)), rows(synthetic, rng.permutation(13))
    assert computed(name, *turned) == pytest.approx(computed(name, real, synthetic), rel=1e-6, abs=1e-7)


def test_parts_merge_to_the_whole_in_any_order(name: str) -> None:
    real, synthetic = drawn(60), drawn(13, 1)
    whole = computed(name, real, synthetic)
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        parts = [make(name) for _ in range(4)]  # the fourth has seen nothing
        for part, r, s in zip(
            parts, (slice(0, 7), slice(7, 50), slice(50, 60)), (slice(0, 0), slice(0, 9), slice(9, 13)), strict=False
        ):
            part.update_real(*rows(real, r)[:2])
            part.update_synthetic(*rows(synthetic, s))
        first, *others = (parts[i] for i in order)
        for other in others:
            first.merge(other)
        assert first.compute() == pytest.approx(whole, rel=1e-6, abs=1e-7)


def test_merging_leaves_the_other_as_it_was(name: str) -> None:
    one, other = make(name), make(name)
    one.update_real(*drawn(30)[:2])
    other.update_real(*drawn(60, 2)[:2])
    other.update_synthetic(*drawn(9, 3))
    before = other.compute()
    one.merge(other)
    one.update_real(*drawn(30, 4)[:2])
    one.compute()
    assert other.compute() == before


def test_it_may_go_on_after_a_value(name: str) -> None:
    real, synthetic = drawn(60), drawn(13, 1)
    metric = make(name)
    metric.update_real(*rows(real, slice(0, 30))[:2])
    metric.update_synthetic(*rows(synthetic, slice(0, 6)))
    metric.compute()
    metric.update_real(*rows(real, slice(30, 60))[:2])
    metric.update_synthetic(*rows(synthetic, slice(6, 13)))
    assert metric.compute() == pytest.approx(computed(name, real, synthetic), rel=1e-6, abs=1e-7)


def test_what_it_has_seen_travels_between_processes(name: str) -> None:
    metric = make(name)
    metric.update_real(*drawn(60)[:2])
    again = pickle.loads(pickle.dumps(metric))
    for one in (metric, again):
        one.update_synthetic(*drawn(13, 1))
    assert again.compute() == metric.compute()


def test_the_same_call_gives_the_same_bits(name: str) -> None:
    real, synthetic = drawn(60), drawn(13, 1)
    assert computed(name, real, synthetic) == computed(name, real, synthetic)


def test_its_inputs_are_left_as_they_were_and_are_not_kept(name: str) -> None:
    real, synthetic = drawn(60), drawn(13, 1)
    expected = computed(name, real, synthetic)
    kept = [a.copy() for a in (*real, *synthetic)]
    metric = make(name)
    metric.update_real(*real[:2])
    metric.update_synthetic(*synthetic)
    assert all(np.array_equal(a, b) for a, b in zip(kept, (*real, *synthetic), strict=True))
    for a in (*real[:2], *synthetic):
        a[:] = 0  # a caller may fill its buffer anew
    assert metric.compute() == expected


def test_the_scale_of_the_weights_does_not_matter(name: str) -> None:
    x, y, w = drawn(13, 1)
    expected = computed(name, drawn(60), (x, y, w))
    assert computed(name, drawn(60), (x, y, 1e-3 * w)) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_tensors_and_other_floats_are_taken(name: str) -> None:
    real, synthetic = drawn(60), drawn(13, 1)
    expected = computed(name, real, synthetic)
    tensors = tuple(tuple(torch.from_numpy(a) for a in s) for s in (real, synthetic))
    assert computed(name, *tensors) == expected
    assert computed(name, *((x.astype(np.float64), y.astype(np.int32), w) for x, y, w in (real, synthetic))) == expected


@pytest.mark.parametrize(
    ("n", "m", "width", "classes"),
    [
        (60, 1, 6, 3),
        (60, 1, 6, 1),
        (1, 60, 6, 1),
        (1, 1, 1, 1),
        (5, 3, 40, 3),
        (2, 2, 1, 2),
        (60, 20, 6, 5),
        (3, 60, 2, 60),
    ],
    ids=["one image", "one image, one class", "one real", "one each", "D > n", "tiny", "empty class", "many classes"],
)
def test_degenerate_sets_give_finite_values_or_none(name: str, n: int, m: int, width: int, classes: int) -> None:
    present = min(classes, 4)
    real, synthetic = drawn(n, 0, width, present), drawn(m, 1, width, present)
    assert all(math.isfinite(v) for v in computed(name, real, synthetic, classes).values())


@pytest.mark.parametrize("level", [0.0, 1.0, -3e4])
def test_identical_points_give_finite_values(name: str, level: float) -> None:
    x, y = np.full((20, 4), level, np.float32), np.arange(20) % 2
    other = np.full((6, 4), level + 1, np.float32)
    for z in (x[:6], other):
        values = computed(name, (x, y, y), (z, y[:6], np.ones(6)), classes=2)
        assert all(math.isfinite(v) for v in values.values())


def test_identical_points_are_ideal(name: str) -> None:
    x, y = np.full((20, 4), 0.7, np.float32), np.arange(20) % 2
    values = computed(name, (x, y, y), (x[:6], y[:6], np.ones(6)), classes=2)
    for value in registry.get("metric", name).values:
        if value.ideal is not None and value.name in values:
            short = values[value.name] - value.ideal
            assert (short if value.better == "lower" else -short) <= 1e-5, (value, values)


def test_large_and_small_numbers_give_finite_values(name: str) -> None:
    for scale in (1e-20, 1e12):
        (x, y, w), (z, v, u) = drawn(30), drawn(9, 1)
        values = computed(name, ((x * scale).astype(np.float32), y, w), ((z * scale).astype(np.float32), v, u))
        assert all(math.isfinite(v) for v in values.values())


X, Y, W = drawn(6)
BAD_ROWS = [
    (X[0], Y[:1], "shape"),
    (X[:, :0], Y, "shape"),
    (X[None], Y, "shape"),
    (X.astype(np.uint8), Y, "floats"),
    (X, Y[:5], "shape"),
    (X, Y.astype(np.float32), "integers"),
    (X, Y + 1, "label 3 of row 2 is outside of the classes 0 to 2"),
    (X, Y - 1, "label -1 of row 0 is outside"),
    (np.where(np.arange(6)[:, None] == 4, np.nan, X), Y, "in 1 rows, first 4"),
    (np.where(np.arange(6)[:, None] == 0, np.inf, X), Y, "in 1 rows, first 0"),
    (X + np.float32(1e20), Y, "beyond 1e.15 in 6 rows"),
    (X[:, :2], Y, "vectors of 6 and of 2 numbers"),
]


@pytest.mark.parametrize("side", ["real", "synthetic"])
@pytest.mark.parametrize(("x", "y", "why"), BAD_ROWS, ids=[why for _, _, why in BAD_ROWS])
def test_bad_rows_are_refused_in_one_line(name: str, side: str, x: np.ndarray, y: np.ndarray, why: str) -> None:
    metric = make(name)
    metric.update_real(X, Y)
    metric.update_synthetic(X, Y, W)
    before = metric.compute()
    with pytest.raises(ValueError, match=why) as caught:
        metric.update_real(x, y) if side == "real" else metric.update_synthetic(x, y, np.ones(len(y)))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{name}: ")
    assert metric.compute() == before, "what is refused leaves no trace"


@pytest.mark.parametrize("w", [W[:5], W[None], np.where(W > 0, np.nan, W), -W, np.full(6, np.inf)])
def test_bad_weights_are_refused_in_one_line(name: str, w: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"{name}: synthetic weights must") as caught:
        make(name).update_synthetic(X, Y, w)
    assert "\n" not in str(caught.value)


def test_a_side_without_rows_or_weight_is_named(name: str) -> None:
    metric = make(name)
    with pytest.raises(ValueError, match=f"{name}: the real set has no rows"):
        metric.compute()
    metric.update_real(X, Y)
    with pytest.raises(ValueError, match=f"{name}: the synthetic set has no rows"):
        metric.compute()
    metric.update_synthetic(X, Y, np.zeros(6))
    with pytest.raises(ValueError, match=f"{name}: the synthetic set has weights that sum to zero"):
        metric.compute()


def test_only_its_like_is_merged(name: str) -> None:
    for other in (make(name, classes=2), make(name, seed=1)):
        with pytest.raises(ValueError, match=f"{name}: cannot merge"):
            make(name).merge(other)
    one, other = make(name), make(name)
    one.update_real(X, Y)
    other.update_synthetic(X[:, :3], Y, W)
    with pytest.raises(ValueError, match="vectors of 6 and of 3 numbers"):
        one.merge(other)
    with pytest.raises(ValueError, match="classes=0"):
        make(name, classes=0)
