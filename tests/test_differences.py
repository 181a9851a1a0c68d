"""Which trainings are compared with which, and what is said of two sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raydistill.report.data import Difference
from raydistill.report.wording import conclusion, verdict
from raydistill.results.differences import adjusted, difference, table
from raydistill.results.pairing import TrainingOutcome, matched

IMAGES = 200


def outcome(name: str, generation: int | None, training: int, top1: float, digest: str = "") -> TrainingOutcome:
    right = np.arange(IMAGES) < round(top1 * IMAGES)
    digest = digest or f"{name} {generation}"
    return TrainingOutcome(name, digest, "convnet", generation, training, top1, top1, "test", (right[::2], right[1::2]))


def a_set(name: str, values: dict[tuple[int | None, int], float], digest: str = "") -> list[TrainingOutcome]:
    return [outcome(name, g, t, v, digest) for (g, t), v in values.items()]


def units(a: list[TrainingOutcome], b: list[TrainingOutcome]) -> list[list[tuple]]:
    return [[((x.generation, x.training), (y.generation, y.training)) for x, y in c] for c in matched(a, b)]


class TestPairs:
    def test_share_generation_and_training_seed(self) -> None:
        a = a_set("a", {(g, t): 0.5 for g in (0, 1) for t in (0, 1)})
        b = a_set("b", {(0, 0): 0.4, (0, 1): 0.4, (1, 1): 0.4, (2, 0): 0.4})
        assert units(a, b) == [[((0, 0), (0, 0)), ((0, 1), (0, 1))], [((1, 1), (1, 1))]]

    def test_of_two_single_draws_are_by_training_seed_whatever_drew_them(self) -> None:
        a, b = a_set("a", {(0, 0): 0.5, (0, 1): 0.5}), a_set("b", {(7, 1): 0.4, (7, 2): 0.4})
        assert units(a, b) == [[((0, 1), (7, 1))]]

    def test_of_what_nothing_was_drawn_for_are_used_once(self) -> None:
        """Three draws of two trainings each beside four trainings on the full data: two seeds, not one twice."""
        drawn = a_set("a", {(g, t): 0.5 for g in (0, 1, 2) for t in (0, 1)})
        fixed = a_set("full", {(None, t): 0.8 for t in range(4)})
        clusters = units(drawn, fixed)
        assert [[y for _, y in c] for c in clusters] == [[(None, 0), (None, 1)], [(None, 2), (None, 3)]]
        assert [[(y, x) for x, y in c] for c in clusters] == units(fixed, drawn)

    def test_share_a_training_seed_wherever_both_have_it(self) -> None:
        """Of 25 draws beside three trainings on the full data the tenth does not take what is the second's."""
        drawn = a_set("a", {(g, g): 0.5 for g in range(25)})
        fixed = a_set("full", {(None, t): 0.8 for t in range(3)})
        assert units(drawn, fixed) == [[((t, t), (None, t))] for t in range(3)]
        assert units(a_set("a", {(g, g): 0.5 for g in range(3)}), a_set("full", {(None, t): 0.8 for t in (1, 2)})) == [
            [((t, t), (None, t))] for t in (1, 2)
        ]

    def test_go_to_the_first_seeds_as_numbers_where_none_is_shared(self) -> None:
        """Not as words, by which a tenth seed would take the pairs of the third once it is drawn."""
        fixed = a_set("full", {(None, t): 0.8 for t in range(2)})
        for upto in (5, 13):
            drawn = a_set("a", {(g, g): 0.5 for g in range(3, upto)})
            assert units(drawn, fixed) == [[((3, 3), (None, 0))], [((4, 4), (None, 1))]]

    def test_seeds_that_made_the_same_images_are_one(self) -> None:
        same = a_set("kmeans", {(g, 0): 0.137 for g in (0, 1, 2)}, digest="one and the same")
        other = a_set("herding", {(None, t): 0.1 for t in range(3)})
        assert len(units(same, other)) == 1 and len(units(same, other)[0]) == 1


class TestDifference:
    def test_is_of_units_that_are_generation_seeds(self) -> None:
        rng = np.random.default_rng(0)
        values = {(g, t): float(v) for g in range(4) for t, v in enumerate(rng.normal(0.5, 0.01, 2))}
        gap = difference(a_set("a", values), a_set("b", {k: v - 0.05 for k, v in values.items()}))
        assert gap is not None
        assert (gap.pairs, gap.units, gap.generations, gap.ahead) == (8, 4, 4, 1.0)
        assert gap.mean == pytest.approx(0.05) and gap.sign == 1

    def test_is_wider_with_the_error_of_the_test_images(self) -> None:
        a = a_set("a", {(0, t): v for t, v in enumerate((0.50, 0.51, 0.52))})
        b = a_set("b", {(0, t): v for t, v in enumerate((0.48, 0.485, 0.51))})
        gap = difference(a, b)
        assert gap and gap.low and gap.high and gap.tested_low and gap.tested_high and gap.t_low
        assert gap.tested_low < gap.low < gap.mean < gap.high < gap.tested_high
        assert gap.t_low == pytest.approx(gap.low, abs=0.01), "the check by paired t"
        older = difference([replace(o, answers=None) for o in a], b)
        assert older and older.low == gap.low and older.tested_low is None

    def test_counts_only_where_the_check_agrees(self) -> None:
        sure = Difference(
            "a", "b", "convnet", "top-1", 0.02, 3, 3, 1, 1.0, low=0.01, high=0.04, t_low=0.005, t_high=0.035
        )
        assert sure.sign == 1 and sure.turned().sign == -1
        assert replace(sure, t_low=-0.001).sign == 0 and replace(sure, low=-0.001).sign == 0

    def test_of_one_pair_is_told_from_the_test_images_alone(self) -> None:
        gap = difference(a_set("a", {(0, 0): 0.6}), a_set("b", {(0, 0): 0.4}))
        assert gap and (gap.low, gap.needed, gap.sign) == (None, None, 0)
        assert gap.tested_low and gap.tested_low > 0 and gap.p and gap.p < 1e-6

    def test_needs_the_same_test_images(self) -> None:
        a, b = a_set("a", {(0, 0): 0.6}), a_set("b", {(0, 0): 0.4})
        assert difference(a, [replace(b[0], test="others")]) is None

    def test_needs_the_same_rules(self) -> None:
        a, b = a_set("a", {(0, 0): 0.6}), a_set("b", {(0, 0): 0.4})
        assert difference(a, [replace(b[0], rules="another protocol")]) is None

    def test_of_pairs_that_are_all_alike_by_unknown_images_is_no_certainty(self) -> None:
        """Two pairs of cells that kept no answers, one point apart each: no interval, no p, and no "better"."""
        a, b = (
            [replace(o, answers=None) for o in a_set(n, {(0, t): v for t in (0, 1)})]
            for n, v in (("a", 0.5), ("b", 0.49))
        )
        gap = difference(a, b)
        assert gap is not None and (gap.low, gap.p, gap.sign, gap.units) == (None, None, 0, 2)
        assert verdict(gap) == "all pairs alike, so no spread was seen"
        assert conclusion(gap) == "all pairs alike, so no spread was seen at 2 training seeds: more would show one"
        same = difference(a, [replace(o, set="c") for o in a])
        assert same is not None and verdict(same) == "no difference"

    @pytest.mark.parametrize(
        ("first", "second"), [((0.412, 0.387, 0.401), (0.402, 0.377, 0.391)), ((0.5, 0.6, 0.7),) * 2]
    )
    def test_of_pairs_that_are_alike_but_for_rounding_is_none_either(
        self, first: tuple[float, ...], second: tuple[float, ...]
    ) -> None:
        """0.412 - 0.402 is not 0.387 - 0.377 to the last bit, which is no spread; nor are three ties a proof of one."""
        a, b = (
            [
                replace(o, answers=None, top1=v)
                for o, v in zip(a_set(n, {(0, t): 0 for t in range(3)}), top1, strict=True)
            ]
            for n, top1 in (("a", first), ("b", second))
        )
        gap = difference(a, b)
        assert gap is not None and (gap.low, gap.p, gap.needed, gap.sign) == (None, None, None, 0)
        assert verdict(gap) == "all pairs alike, so no spread was seen"
        same = difference(a, [replace(o, set="b") for o in a])
        assert same is not None and verdict(same) == "no difference", "the same images are"

    def test_of_one_pair_over_classes_has_no_p_of_images(self) -> None:
        """Ahead over images, by the large class, and behind over classes: McNemar's p is of the first alone."""
        large, small = np.arange(1000) < 40, np.zeros(10, bool)
        a = [replace(outcome("a", 0, 0, 40 / 1010), balanced=0.02, answers=(large, small))]
        b = [replace(outcome("b", 0, 0, 9 / 1010), balanced=0.45, answers=(large & False, np.arange(10) < 9))]
        over_classes, over_images = difference(a, b, "balanced"), difference(a, b)
        assert over_classes is not None and over_classes.p is None and over_classes.mean < 0
        assert over_classes.tested_high is not None and over_classes.tested_high < 0
        assert over_images is not None and over_images.mean > 0 and over_images.p is not None and over_images.p < 1e-4
        assert [d.holm for d in table([*a, *b], ("balanced", "top-1"))] == [None, over_images.p]

    def test_of_other_images_that_tie_in_every_pair_is_not_known_to_be_none(self) -> None:
        """Two sets that are right on other images, equally many in both pairs: an interval that has a width."""
        a, b = (a_set(n, {(0, t): 0.5 for t in (0, 1)}) for n in "ab")
        same = difference(a, b)
        assert same is not None and (same.low, same.high, verdict(same)) == (0.0, 0.0, "no difference")
        others = [replace(o, answers=tuple(~answers for answers in o.answers or ())) for o in b]
        tie = difference(a, others)
        assert tie is not None and tie.low is not None and tie.high is not None and tie.p == pytest.approx(1)
        assert tie.mean == 0 and tie.low < 0 < tie.high and tie.ahead == 0.5
        assert conclusion(tie).startswith("cannot be told apart at 2 training seeds")

    def test_without_the_answers_holds_on_these_test_images_alone(self) -> None:
        values = {(0, t): 0.5 + 0.001 * t for t in range(4)}
        a, b = a_set("a", values), a_set("b", {k: v - 0.1 + 0.001 * k[1] for k, v in values.items()})
        assert verdict(difference(a, b)) == "better"  # type: ignore[arg-type]
        older = difference([replace(o, answers=None) for o in a], b)
        assert older and verdict(older) == "better (on these test images)" and older.needed_tested is None

    def test_turned_around_says_the_opposite(self) -> None:
        a = a_set("a", {(0, t): v for t, v in enumerate((0.6, 0.62, 0.59))})
        b = a_set("b", {(0, t): v for t, v in enumerate((0.4, 0.41, 0.43))})
        one, two = difference(a, b), difference(b, a)
        assert one and two and (one.sign, two.sign) == (1, -1)
        turned = one.turned()
        for key in ("a", "b", "mean", "low", "high", "tested_low", "tested_high", "t_low", "t_high", "ahead", "p"):
            left, right = getattr(turned, key), getattr(two, key)
            assert left == (right if isinstance(right, str) else pytest.approx(right, abs=2e-3)), key


class TestTable:
    def test_holds_every_pair_of_every_student_and_holm_is_over_those_of_one(self) -> None:
        rows = [
            replace(o, student=student)
            for student in ("x", "y")
            for name, level in (("a", 0.5), ("b", 0.45), ("c", 0.449))
            for o in a_set(name, {(0, t): level + 0.01 * (t - 1) ** 2 + 0.001 * t * len(name + "b") for t in range(3)})
        ]
        rows = [replace(o, top1=o.top1 + 0.002 * (ord(o.set) * o.training % 3)) for o in rows]
        pairs = table(rows)
        assert [(d.student, d.a, d.b) for d in pairs] == [
            (s, a, b) for s in ("x", "y") for a, b in (("a", "b"), ("a", "c"), ("b", "c"))
        ]
        assert all(d.holm is not None and d.p is not None and d.p <= d.holm <= 3 * d.p + 1e-12 for d in pairs)
        assert any(d.p and d.holm and d.holm > 2.9 * d.p for d in pairs)

    def test_a_pair_that_cannot_be_tested_is_in_no_family(self) -> None:
        plain = Difference("a", "b", "x", "top-1", 0.1, 1, 1, 1, 1.0)
        pairs = adjusted([plain, replace(plain, p=0.03)])
        assert [d.holm for d in pairs] == [None, 0.03]
