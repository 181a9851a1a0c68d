"""What the page and the terminal say of the accuracies: better only where an interval says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from grids import compared
from test_report import Reader, between, judged, report, scores

from raydistill.report import plots, wording
from raydistill.report.data import Curves, Difference
from raydistill.report.line import Line
from raydistill.report.page import render
from raydistill.report.scores import RANDOM, ScoreRow
from raydistill.report.verdict import guessing_error, verdicts
from raydistill.results import differences, reporting
from raydistill.tune.outcomes import outcomes

NAN = float("nan")


def plain(text: str) -> str:
    """With spaces that may break, as a reader of the page collects them."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("difference", "tone", "says"),
    [
        (between("mgd3", RANDOM, 0.063, 0.02), "better", "beats random images by 6.3 points [4.3, 8.3]"),
        (
            between(RANDOM, "mgd3", 0.017, 0.01),
            "worse",
            "does not beat random images: it is 1.7 points [0.7, 2.7] below",
        ),
        (
            between("mgd3", RANDOM, 0.013, 0.02),
            "same",
            "1.3 points [−0.7, 3.3] above, cannot be told apart at 3 training seeds; 9 would resolve one point",
        ),
        (
            between("mgd3", RANDOM, -0.013, 0.02, needed=None),
            "same",
            "1.3 points [−0.7, 3.3] below, cannot be told apart at 3 training seeds; no number would resolve one point",
        ),
        (between("mgd3", RANDOM, 0.0, 0.02), "same", "0.0 points [−2.0, 2.0] apart, cannot be told apart at 3"),
        (between("mgd3", RANDOM, 0.03, 0.02, tested=0.04), "better", "by 3.0 points [1.0, 5.0] (on these test images)"),
        (
            between("mgd3", RANDOM, 0.03, 0.02, holm=0.21),
            "better",
            "by 3.0 points [1.0, 5.0] (taken alone: p = 0.21 among all pairs)",
        ),
        (
            Difference(
                "mgd3", RANDOM, "convnet", "top-1", 0.1, 1, 1, 1, 1.0, tested_low=0.05, tested_high=0.15, p=0.01
            ),
            "open",
            "is 10.0 points [5.0, 15.0] above random images: one pair of trainings on these test images:",
        ),
    ],
)
def test_a_claim_is_what_its_interval_says(difference: Difference, tone: str, says: str) -> None:
    data = report(judgement=judged(difference))
    (verdict,) = verdicts(data.judgement)
    assert verdict.tone == tone and verdict.claim.startswith("This mgd3 set ")
    assert says in plain(verdict.claim)
    assert verdict.best == "", "with random images alone there is nothing else to name"
    assert plain(verdict.claim) in Reader(render(data)).text


def test_what_was_not_compared_is_open() -> None:
    (verdict,) = verdicts(judged())
    assert verdict.tone == "open" and "no seeds in common" in verdict.claim
    (verdict,) = verdicts(judged(scored=scores(NAN)))
    assert verdict.tone == "open" and "no valid accuracy" in verdict.claim


def more(*others: tuple[str, float]) -> tuple[ScoreRow, ...]:
    return *scores(), *(replace(scores()[1], set=name, last_mean=v, balanced_mean=v) for name, v in others)


class TestBest:
    """The headline names the best of all sets, whichever is the run's own."""

    def best(self, difference: Difference, *others: tuple[str, float], **change: object) -> str:
        judgement = judged(between("mgd3", RANDOM, 0.063, 0.02), difference, scored=more(*others), **change)
        (verdict,) = verdicts(judgement)
        assert verdict.claims == [verdict.best, verdict.claim]
        assert plain(verdict.best) in Reader(render(report(judgement=judgement))).text
        return plain(verdict.best)

    def test_is_another_set(self) -> None:
        said = self.best(between("kmeans", "mgd3", 0.019, 0.01), ("kmeans", 0.54), ("dit", 0.5))
        assert said == "Best of 4 sets: kmeans, 54.0 ± 1.1 %, 1.9 points [0.9, 2.9] better than mgd3"

    def test_is_another_set_that_may_be_no_better(self) -> None:
        said = self.best(between("mgd3", "kmeans", -0.019, 0.03), ("kmeans", 0.54))
        assert "kmeans, 54.0 ± 1.1 %, 1.9 points [−1.1, 4.9] ahead of mgd3: cannot be told apart at 3 training" in said

    def test_is_the_one_that_the_pairs_say_where_the_means_are_of_other_seeds(self) -> None:
        """kmeans has the higher mean, over more seeds than mgd3, and loses on each that both have."""
        said = self.best(between("mgd3", "kmeans", 0.019, 0.01), ("kmeans", 0.54))
        assert said == "On the seeds that both have: mgd3, 1.9 points [0.9, 2.9] better than kmeans"
        said = self.best(between("mgd3", "kmeans", 0.019, 0.03), ("kmeans", 0.54))
        assert said.startswith(
            "On the seeds that both have: mgd3, 1.9 points [−1.1, 4.9] ahead of kmeans: cannot be told"
        )

    def test_is_the_runs_own_against_the_next(self) -> None:
        said = self.best(between("mgd3", "kmeans", 0.02, 0.01), ("kmeans", 0.501))
        assert said == "Best of 3 sets: mgd3, 52.1 ± 0.8 %, 2.0 points [1.0, 3.0] better than kmeans"

    def test_is_never_a_bound(self) -> None:
        assert "full data" not in self.best(between("mgd3", "kmeans", 0.02, 0.01), ("kmeans", 0.501))


class TestChance:
    def test_needs_more_than_noise_over_it(self) -> None:
        def detail(last: float, std: float | None, images: int, seeds: int = 3) -> str:
            row = replace(scores(last)[0], seeds=seeds, last_std=std)
            (verdict,) = verdicts(judged(scored=(row,), tested=(images // 10,) * 10))
            return plain(verdict.detail)

        assert "cannot be told from chance (10.0 %)" in detail(0.104, 0.01, 1000)
        assert "cannot be told from chance" in detail(0.12, 0.001, 100), "within the error of a hundred test images"
        assert "cannot be told from chance" in detail(0.15, 0.03, 10_000), "within the spread over seeds"
        assert "Chance is 10.0 %" in detail(0.2, 0.01, 1000)
        assert "cannot be told from chance" in detail(0.11, None, 1000, 1)
        assert "Chance is 10.0 %" in detail(0.2, None, 1000, 1)

    @pytest.mark.parametrize("tested", [(100,) * 8, (400, *(20,) * 7), (400, 20, 0)])
    def test_over_classes_is_wide_where_some_are_small(self, tested: tuple[int, ...]) -> None:
        """The standard error of guessing, against a simulation and its closed form."""
        sizes = np.array([n for n in tested if n])
        p = 1 / len(sizes)
        guesses = np.random.default_rng(0).binomial(sizes, p, (20_000, len(sizes)))
        for measure, of_each in (("top-1", guesses.sum(1) / sizes.sum()), ("balanced", (guesses / sizes).mean(1))):
            row = replace(judged(measure=measure, tested=tested), chance=p)
            assert guessing_error(row) == pytest.approx(of_each.std(), rel=0.02)
        closed = np.sqrt(p * (1 - p) * (1 / sizes).sum()) / len(sizes)
        assert guessing_error(judged(measure="balanced", tested=tested)) == pytest.approx(closed)

    def test_over_uneven_classes_four_points_may_be_luck(self) -> None:
        """12.5 % by chance; seven of eight classes have 20 test images, and 16.5 % are less than two errors above."""

        def detail(balanced: float) -> str:
            row = replace(scores()[0], balanced_mean=balanced, balanced_std=0.001)
            tested = (400, *(20,) * 7)
            (verdict,) = verdicts(judged(scored=(row,), measure="balanced", tested=tested))
            return plain(verdict.detail)

        assert "cannot be told from chance (12.5 %)" in detail(0.165)
        assert "Chance is 12.5 %" in detail(0.185)

    def test_one_seed_has_no_spread(self) -> None:
        (verdict,) = verdicts(judged(scored=scores(seeds=1)))
        assert "±" not in verdict.detail and "one seed" in verdict.detail


class TestOneDraw:
    """What was drawn once is spoken of as a set, and a folder always is."""

    def test_a_folder_is_this_set_though_five_seeds_drew_the_others(self) -> None:
        difference = between("theirs", RANDOM, 0.099, 0.02)
        for generations, claim in ((1, "This theirs set beats random images"), (5, "theirs beats random images")):
            row = replace(scores()[0], set="theirs", seeds=5, generations=generations)
            other = replace(scores()[1], seeds=5, generations=5)
            (verdict,) = verdicts(judged(difference, scored=(row, other), generations=5))
            assert verdict.claim.startswith(claim)

    @pytest.mark.parametrize(
        ("generations", "folder", "others", "says"),
        [
            (1, "", True, ["seeds.generation=5 draws each set by"]),
            (1, "theirs", True, ["seeds.generation=5 draws each of the other sets by", "theirs is one set"]),
            (1, "theirs", False, ["theirs is one set"]),
            (5, "theirs", True, ["theirs is one set"]),
            (5, "", True, []),
        ],
    )
    def test_the_note_says_what_more_seeds_would_draw(
        self, generations: int, folder: str, others: bool, says: list[str]
    ) -> None:
        notes = reporting.one_draw(judged(generations=generations), folder, others)
        assert len(notes) == len(says) and all(s in n for s, n in zip(says, notes, strict=True))


class TestUneven:
    """Over uneven classes it is the mean over classes that leads."""

    def test_sets_are_told_apart_a_class(self) -> None:
        rows = tuple(replace(s, balanced_mean=s.last_mean - 0.2, balanced_std=0.01) for s in scores())
        differences = [between("mgd3", RANDOM, 0.063, 0.02), between("mgd3", RANDOM, 0.001, 0.02, measure="balanced")]
        judgement = judged(*differences, scored=rows, measure="balanced", tested=(10, 40))
        (one,) = verdicts(judgement)
        assert one.tone == "same" and "0.1 points" in one.claim
        assert "32.1 ± 1.0 % a class (52.1 % an image)" in plain(one.detail)
        assert "keeps 49 %" in one.detail, "of 65.2 a class, and not of 85.2 an image"

    def test_mark_bars_and_chance_go_by_what_the_headline_goes_by(self) -> None:
        """mgd3 leads over images, k-means over classes."""
        rows = tuple(
            replace(s, balanced_mean=v, balanced_std=0.01)
            for s, v in zip(more(("kmeans", 0.5)), (0.3, 0.25, 0.6, 0.4), strict=True)
        )
        data = report(judgement=judged(scored=rows, measure="balanced", tested=(60, 20, 20, 20), generations=1))
        data = replace(data, judgement=replace(data.judgement, chance=0.5))
        html = render(data)
        words = Reader(html).text
        (verdict,) = verdicts(data.judgement)
        assert "kmeans" in verdict.best and html.count("top higher") == 1
        assert '<td class="num top higher">40.0 ± 1.0</td>' in html, "in the column of the mean over classes"
        svg = str(plots.accuracy(rows, 0.25, "balanced"))
        assert svg in html and "mean over classes. mgd3, convnet: 30.0 ± 1.0 %" in svg and "Chance: 25.0 %" in svg
        assert f'class="bound" x1="{60 / 0.7:.2f}%"' in svg and "<circle" not in svg
        assert "chance, 25.0 %" in words and "by the mean over classes" in words

    def test_curves_say_that_they_are_over_images(self) -> None:
        line = Line("mgd3", np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.zeros(2), True)
        for measure, told in (("top-1", False), ("balanced", True)):
            page = render(report(judgement=judged(measure=measure), curves=(Curves("convnet", (line,)),)))
            assert ("Over images: the mean over classes" in Reader(page).text) is told


def test_a_table_puts_the_larger_set_first() -> None:
    (row,) = wording.rows([between("mgd3", RANDOM, -0.02, 0.01)])
    assert (row.a, row.b, row.mean) == (RANDOM, "mgd3", "2.0")
    assert plain(row.over_seeds) == "[1.0, 3.0]" and row.words == "better" and row.needed == "9 here"
    (row,) = wording.rows([replace(between("mgd3", RANDOM, -0.02, 0.01), needed_tested=31)])
    assert row.needed == "31"


def test_what_is_only_noise_away_is_called_that_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    """The same accuracies on the page, on the terminal and in a table of results."""
    accuracies = {"mgd3": (0.52, 0.50, 0.51), RANDOM: (0.51, 0.52, 0.49)}
    cells = {
        name: [
            {"seed": seed, "rows": [{"student": "convnet", "training_seed": seed, "last": a, "loss": [[64, a]]}]}
            for seed, a in enumerate(values)
        ]
        for name, values in accuracies.items()
    }
    pairs = differences.table([o for name, kept in cells.items() for o in outcomes(name, kept)])
    judgement = judged(*pairs)
    reporting.table(judgement)
    page = Reader(render(report(judgement=judgement))).text
    for said in (page, capsys.readouterr().err, compared(10, list(cells.items()))):
        assert wording.OPEN in said and "beats" not in said and "| better" not in said


def test_the_page_has_a_table_of_every_pair() -> None:
    others = [between("kmeans", "mgd3", 0.019, 0.01), between("kmeans", RANDOM, 0.08, 0.01)]
    judgement = judged(between("mgd3", RANDOM, 0.063, 0.02), *others, scored=more(("kmeans", 0.54)))
    words = Reader(render(report(judgement=judgement))).text
    assert "mgd3 − random 6.3 [4.3, 8.3]" in words
    assert "1 further pair" in words and words.index("kmeans − mgd3") < words.index("1 further pair")
    assert "What can be told apart" not in Reader(render(report(judgement=judged()))).text
