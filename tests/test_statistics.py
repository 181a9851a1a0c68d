"""Intervals and tests against what is known in closed form, and simulated with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from raydistill.results import over_images, statistics
from raydistill.results.statistics import (
    ImageError,
    Interval,
    ahead,
    bootstrap,
    holm,
    paired_t,
    power,
    resampled,
    seeds_for,
    units,
    unrounded,
)


def clusters(generations: int, trainings: int, between: float, within: float, rng: np.random.Generator) -> list:
    drawn = between * rng.normal(size=(generations, 1)) + within * rng.normal(size=(generations, trainings))
    return list(drawn)


class TestInterval:
    @pytest.mark.parametrize(
        ("generations", "trainings", "between"),
        [(3, 1, 1.0), (1, 5, 0.0), (3, 3, 1.0), (3, 3, 0.0), (8, 2, 0.3)],
    )
    def test_covers_the_truth_as_often_as_it_says(self, generations: int, trainings: int, between: float) -> None:
        """400 experiments whose difference is 0: 95 % of the intervals hold it, within three standard errors."""
        rng = np.random.default_rng(8)
        within = 1.0 if generations == 1 or trainings > 1 else 0.0
        intervals = [bootstrap(clusters(generations, trainings, between, within, rng), draws=1000) for _ in range(400)]
        covered = np.mean([i is not None and i.low <= 0 <= i.high for i in intervals])
        assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 400))

    def test_of_many_normal_units_is_that_of_the_normal(self) -> None:
        each = stats.norm.ppf((np.arange(200) + 0.5) / 200) + 0.3
        interval = bootstrap([np.array([v]) for v in each])
        half = stats.t.ppf(0.975, 199) * each.std(ddof=1) / math.sqrt(200)
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.01)

    def test_resampled_means_have_the_variance_of_two_levels(self) -> None:
        """One cluster: that of n values drawn again, (n-1)/n of the unbiased one over n."""
        values = np.array([0.0, 1.0, 4.0, 9.0])
        assert resampled([values], 200_000).var() == pytest.approx(values.var() / 4, rel=0.02)
        two = [np.array([0.0, 2.0]), np.array([10.0, 14.0, 18.0])]
        between = np.var([1.0, 14.0]) / 2
        within = (np.var([0.0, 2.0]) / 2 + np.var([10.0, 14.0, 18.0]) / 3) / 2 / 2
        assert resampled(two, 200_000).var() == pytest.approx(between + within, rel=0.02)

    def test_is_the_same_every_time_and_one_unit_has_none(self) -> None:
        units = clusters(3, 2, 1.0, 1.0, np.random.default_rng(0))
        assert bootstrap(units) == bootstrap(units)
        assert bootstrap([np.array([0.3])]) is None and paired_t([np.array([0.3])]) is None
        assert bootstrap([np.zeros(3)]) == Interval(0.0, 0.0)

    def test_errors_add_up_in_quadrature(self) -> None:
        wider = Interval(-3.0, 3.0).widened(0.0, 4.0 / statistics.Z)
        assert (wider.low, wider.high) == pytest.approx((-5.0, 5.0))


class TestPairedT:
    def test_is_scipys_over_generation_seeds(self) -> None:
        a, b = np.array([0.41, 0.44, 0.40, 0.47]), np.array([0.38, 0.43, 0.36, 0.42])
        expected = stats.ttest_rel(a, b)
        paired = paired_t([np.array([d, d]) for d in a - b])
        assert paired is not None and paired[1] == pytest.approx(expected.pvalue)
        low, high = expected.confidence_interval(0.95)
        assert (paired[0].low, paired[0].high) == pytest.approx((low, high))


class TestHolm:
    def test_steps_down(self) -> None:
        """The textbook's: 0.01 x 4, 0.02 x 3 = 0.06, 0.03 x 2 = 0.06, 0.04: never below an earlier one, at most 1."""
        assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
        assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


class TestSeeds:
    @pytest.mark.parametrize("deviation", [0.005, 0.01, 0.017, 0.04])
    def test_as_many_as_four_of_five_experiments_take(self, deviation: float) -> None:
        """Simulated: with that many pairs a true point is seen in 80 %, and hardly with a quarter of them."""
        values = stats.norm.ppf((np.arange(100) + 0.5) / 100)
        values *= deviation / values.std(ddof=1)
        needed = seeds_for([values])
        assert needed is not None
        drawn = np.random.default_rng(1).normal(0.01, deviation, (4000, needed))
        half = stats.t.ppf(0.975, needed - 1) * drawn.std(1, ddof=1) / math.sqrt(needed)
        seen = float(np.mean(drawn.mean(1) - half > 0))
        assert 0.77 < seen < 0.95
        assert needed == 2 or power(needed - 1, deviation, 0.01) < 0.8

    def test_without_a_spread_there_is_no_telling_and_noise_never_ends(self) -> None:
        assert seeds_for([np.array([0.1])]) is None
        assert seeds_for([np.array([-400.0, 400.0])]) is None
        assert seeds_for([np.full(3, 0.02)]) == 2


class TestSeedsForOtherImages:
    """The error of the test images is part of what a number of seeds can resolve: some of it no number removes."""

    def test_without_an_error_the_chance_is_that_of_the_noncentral_t(self) -> None:
        tiny = ImageError(lasting=1e-12)
        for n in (2, 3, 12, 200):
            assert power(n, 0.017, 0.01, tiny) == pytest.approx(power(n, 0.017, 0.01), abs=2e-3)

    @pytest.mark.parametrize("images", [ImageError(0.003, 0.0), ImageError(0.002, 0.01), ImageError(0.0, 0.02)])
    def test_as_many_as_four_of_five_experiments_take(self, images: ImageError) -> None:
        """Simulated: seeds and images drawn anew in each experiment, judged as the tables judge."""
        deviation = 0.017
        values = stats.norm.ppf((np.arange(100) + 0.5) / 100)
        values *= deviation / values.std(ddof=1)
        needed, here = seeds_for([values], images=images), seeds_for([values])
        assert needed is not None and here is not None and needed > here
        rng = np.random.default_rng(2)
        drawn = rng.normal(0.01, deviation, (4000, needed)) + rng.normal(0, images.lasting, (4000, 1))
        half = stats.t.ppf(0.975, needed - 1) * drawn.std(1, ddof=1) / math.sqrt(needed)
        seen = np.mean(drawn.mean(1) - np.hypot(half, statistics.Z * images.of(needed)) > 0)
        assert 0.77 < float(seen) < 0.84

    def test_no_number_removes_what_lasts(self) -> None:
        """In the limit the chance is Phi(difference / lasting - 1.96): four of five up to 0.357 of the difference."""
        values = [np.array([-0.01, 0.01, 0.0])]
        limit = 0.01 / (statistics.Z + stats.norm.ppf(statistics.POWER))
        assert seeds_for(values, images=ImageError(lasting=0.98 * limit)) is not None
        assert seeds_for(values, images=ImageError(lasting=1.02 * limit)) is None


def test_ahead_is_the_share_of_pairs_and_a_tie_is_half() -> None:
    assert ahead([np.array([1.0, -1.0]), np.array([2.0, 0.0])]) == pytest.approx((0.5 + 0.75) / 2)


class TestImages:
    """`a` right on 60 % and `b` on 50 % of the images of two classes, 40 and 360 of them."""

    A = (np.arange(40) < 24, np.arange(360) < 216)
    B = (np.arange(40) < 20, np.arange(360) < 180)

    def test_mcnemar_is_the_binomial_of_the_images_on_which_they_differ(self) -> None:
        a, b = (np.array([True] * 9 + [False] * 3 + [True] * 50),), (np.array([False] * 9 + [True] * 53),)
        assert over_images.mcnemar(a, b) == pytest.approx(stats.binomtest(9, 12).pvalue)
        assert over_images.mcnemar(b, a) == over_images.mcnemar(a, b)
        assert over_images.mcnemar(a, a) == 1.0

    @pytest.mark.parametrize("balanced", [False, True])
    def test_the_interval_of_a_pair_is_that_of_its_known_error(self, balanced: bool) -> None:
        """A tenth of each class is won and nothing lost: variance 0.1 x 0.9 over the images of a class."""
        share = (0.5, 0.5) if balanced else (0.1, 0.9)
        error = math.sqrt(sum(s**2 * 0.09 / n for s, n in zip(share, (40, 360), strict=True)))
        interval = over_images.bootstrap(self.A, self.B, balanced)
        assert (interval.low, interval.high) == pytest.approx((0.1 - 1.96 * error, 0.1 + 1.96 * error), abs=0.006)
        assert over_images.error([(self.A, self.B)], balanced) == pytest.approx(error, rel=0.02)

    @pytest.mark.parametrize("images", [2, 3, 5, 20])
    @pytest.mark.parametrize("balanced", [False, True])
    def test_of_few_images_a_class_it_is_as_wide_as_their_error(self, images: int, balanced: bool) -> None:
        """Of two hundred classes it is normal; drawing n of n again alone has (n - 1) / n of the variance."""
        rng = np.random.default_rng(images)
        a, b = (tuple(rng.random((200, images)) < 0.4) for _ in range(2))
        interval = over_images.bootstrap(a, b, balanced)
        width = 2 * 1.96 * over_images.error([(a, b)], balanced)
        assert interval.high - interval.low == pytest.approx(width, rel=0.04)
        assert (interval.high + interval.low) / 2 == pytest.approx(np.mean(a) - np.mean(b), abs=0.05 * width)

    def test_no_interval_is_wider_than_all(self) -> None:
        interval = over_images.bootstrap((np.array([True, True]),), (np.array([False, True]),))
        assert (interval.low, interval.high) == (pytest.approx(-0.207, abs=1e-3), 1.0)

    def test_more_trainings_do_not_remove_the_error_of_the_images(self) -> None:
        one = over_images.error([(self.A, self.B)])
        assert over_images.error([(self.A, self.B)] * 9) == pytest.approx(one)

    @pytest.mark.parametrize("balanced", [False, True])
    def test_classes_of_one_image_are_drawn_together(self, balanced: bool) -> None:
        """Six of ten such classes won and none lost, as source.val=split:0.2 leaves them of seven images a class: the
        error is that of ten images of one class, and of two classes beside them each keeps its share."""
        a, b = tuple(np.array([i < 6]) for i in range(10)), (np.zeros(1, bool),) * 10
        whole = (np.arange(10) < 6,), (np.zeros(10, bool),)
        assert over_images.error([(a, b)], balanced) == pytest.approx(math.sqrt(0.24 / 9))
        interval, whole_interval = over_images.bootstrap(a, b, balanced), over_images.bootstrap(*whole, balanced)
        assert (interval.low, interval.high) == (whole_interval.low, whole_interval.high)
        assert over_images.parts([[(a, b)]] * 2, balanced) == over_images.parts([[whole]] * 2, balanced)
        share = (40 / 42, 2 / 42) if not balanced else (1 / 3, 2 / 3)
        mixed = over_images.error([((self.A[0], a[0], a[9]), (self.B[0], b[0], b[9]))], balanced)
        of_class = self.A[0].astype(float) - self.B[0]
        variances = of_class.var(ddof=1) / 40, 0.5 / 2
        assert mixed == pytest.approx(math.sqrt(sum(s**2 * v for s, v in zip(share, variances, strict=True))))


class TestParts:
    """What of the error of the test images lasts, and what fades with more trainings."""

    def test_equal_trainings_leave_nothing_that_fades(self) -> None:
        a, b = TestImages.A, TestImages.B
        parts = over_images.parts([[(a, b)]] * 4)
        assert parts.fading == 0 and parts.lasting == pytest.approx(over_images.error([(a, b)] * 4))

    def test_errors_that_each_training_draws_anew_last_not(self) -> None:
        """Each image is won with probability 0.6 and lost with 0.3, whatever the image: nothing lasts."""
        rng = np.random.default_rng(4)
        pairs = [((rng.random(4000) < 0.6,), (rng.random(4000) < 0.3,)) for _ in range(40)]
        parts = over_images.parts([[pair] for pair in pairs])
        assert parts.fading == pytest.approx(math.sqrt((0.24 + 0.21) / 4000), rel=0.02)
        assert parts.lasting < 0.15 * parts.fading
        assert parts.of(40) == pytest.approx(over_images.error(pairs), rel=0.05)

    def test_both_are_found_beside_each_other(self) -> None:
        """Half of the images are won with 0.9 and half with 0.5: a variance of 0.04 over images, and 0.17 in one."""
        rng = np.random.default_rng(5)
        chances = np.where(np.arange(4000) < 2000, 0.9, 0.5)
        never = (np.zeros(4000, bool),)
        parts = over_images.parts([[((rng.random(4000) < chances,), never)] for _ in range(30)])
        assert parts.lasting == pytest.approx(math.sqrt(0.04 / 4000), rel=0.05)
        assert parts.fading == pytest.approx(math.sqrt(0.17 / 4000), rel=0.05)


class TestUnrounded:
    """Pairs that agree to the last test image have hidden their spread, not shown that there is none."""

    @pytest.mark.parametrize("clusters", [[np.full(3, 0.02)], [np.full(2, 0.02), np.full(1, 0.02), np.full(2, 0.02)]])
    def test_equal_differences_get_the_spread_of_a_rounding_error(self, clusters: list[np.ndarray]) -> None:
        step = 1 / 449
        each = units(unrounded(clusters, step))
        assert each.mean() == pytest.approx(0.02) and each.std(ddof=1) == pytest.approx(step / math.sqrt(12))
        interval = bootstrap(unrounded(clusters, step))
        assert interval is not None and interval.low < 0.02 < interval.high

    def test_two_pairs_of_equal_difference_are_no_certainty(self) -> None:
        checked = paired_t(unrounded([np.full(2, 0.022)], 1 / 449))
        assert checked is not None and 0.005 < checked[1] < 0.05

    def test_a_spread_that_was_seen_and_one_that_nothing_hides_stay(self) -> None:
        for clusters, step in (([np.array([0.01, 0.02])], 0.01), ([np.zeros(3)], 0.0), ([np.array([0.3])], 0.01)):
            assert all(a is b for a, b in zip(unrounded(clusters, step), clusters, strict=True))
