"""All training images as a bound: in as many visits as the sets, for epochs of its own, and classes alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_report import Reader, between, judged, report, scores
from tiny_run import TinyRun, config

from raydistill.config import load
from raydistill.pipeline import job
from raydistill.planning import judging
from raydistill.planning.facts import gather
from raydistill.report.page import render
from raydistill.report.scores import FULL, FULL_BALANCED, RANDOM, TO_THE_END, ScoreRow
from raydistill.report.verdict import verdicts
from raydistill.results import numbers, reporting
from raydistill.sources.base import ClassInfo, Listing
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainings import trainings
from raydistill.state import Results


def listing(few: int, many: int) -> Listing:
    ids = pa.array([str(i) for i in range(few + many)])
    return Listing("train", (ClassInfo("a", "a"), ClassInfo("b", "b")), ids, np.repeat([0, 1], (few, many)), ids)


class TestWhichAreTrained:
    @pytest.mark.parametrize(
        ("full", "epochs", "uneven", "names"),
        [
            (False, 30, True, []),
            (True, None, False, [FULL]),
            (True, 30, False, [FULL, TO_THE_END]),
            (True, None, True, [FULL, FULL_BALANCED]),
            (True, 30, True, [FULL, TO_THE_END, FULL_BALANCED]),
        ],
    )
    def test_one_run_has_all_of_them_and_a_plan_counts_them(
        self, full: bool, epochs: int | None, uneven: bool, names: list[str]
    ) -> None:
        asked = config(evaluate={"full": full, "full_epochs": epochs})
        train = listing(10, 30 if uneven else 12)
        sets = job.whole(asked, train)
        assert [s.name for s in sets] == names
        facts: Any = SimpleNamespace(images=SimpleNamespace(splits=SimpleNamespace(train=train)))
        assert judging.bounds(asked, facts) == [s.epochs for s in sets]
        assert all(s.epochs == (None if s.name == FULL else epochs) for s in sets)

    def test_the_long_one_is_found_that_an_older_version_trained_in_place_of_the_other(self, tmp_path: Path) -> None:
        tiny = TinyRun(tmp_path / "run")
        asked = config(evaluate={"full": True, "full_epochs": 3, "seeds": 1})
        short, long = trainings(asked, tiny.run, job.whole(asked, tiny.train), tiny.test)
        assert long.recipe.visits == 3 * len(tiny.train) and short.recipe.visits == long.recipe.epochs * 6
        (alone,) = trainings(asked, tiny.run, [SetRef.full(tiny.train, 3)], tiny.test)
        assert alone.artifact.fingerprint == long.artifact.fingerprint != short.artifact.fingerprint

    def test_a_plan_trains_each_by_the_seeds_of_all_draws(self, tmp_path: Path) -> None:
        words = ["ipc=1", "evaluate.full_epochs=2", "seeds.generation=3", "evaluate.seeds=2", f"run_dir={tmp_path}/run"]
        asked, variants, facts = gather(load("quickstart", words))
        of_all = [t for t in judging.trained(asked, variants, facts) if t[2] == facts.images.train]
        assert [(r.visits, count) for _, r, _, count in of_all] == [(4000, 6), (2 * facts.images.train, 6)]


def rows(*bounds: tuple[str, float, int]) -> tuple[ScoreRow, ...]:
    full = scores()[2]
    return *scores()[:2], *(
        replace(full, set=name, last_mean=v, balanced_mean=v, visits=visits) for name, v, visits in bounds
    )


class TestWhatIsSaid:
    def test_every_bound_has_its_length_and_the_best_is_what_is_kept_of(self) -> None:
        judgement = judged(scored=rows((FULL, 0.6, 40), (TO_THE_END, 0.8, 2400), (FULL_BALANCED, 0.7, 2400)))
        (verdict,) = verdicts(judgement)
        said = " ".join(verdict.detail.split())
        assert "The full data give 60.0 ± 0.3 % in 40 image visits, 0.5 epochs; 80.0 ± 0.3 % in 2,400" in said
        assert "drawn evenly from the classes, 70.0 ± 0.3 % in 2,400 image visits, 30 epochs." in said
        assert "keeps 65 % of the best of these." in said
        page = Reader(render(report(judgement=judgement))).text
        assert "Full data, to the end : in 2,400 image visits, 30 epochs." in page

    def test_one_epoch_and_one_bound_are_one(self) -> None:
        (verdict,) = verdicts(judged(scored=rows((FULL, 0.8, 80))))
        assert "in 80 image visits, 1 epoch. The distilled set keeps 65 % of that." in " ".join(verdict.detail.split())

    def test_the_terminal_says_it_of_bounds_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        reporting.table(judged(scored=tuple(replace(s, visits=240) for s in scores())))
        lines = capsys.readouterr().err.splitlines()
        assert [("in 240 image visits, 3 epochs" in line) for line in lines if " on " in line] == [False, False, True]

    def test_dd_ranking_takes_the_one_that_was_trained_to_the_end(self) -> None:
        scored = rows((FULL, 0.6, 40), (TO_THE_END, 0.8, 2400))
        assert numbers.label_robust(scored)["hlr/convnet"] == pytest.approx(0.8 - 0.521)


class TestStorage:
    STORED = ((2_000, 0), (2_500, 12_340), None)

    def judgement(self, *stored: tuple[int, int] | None) -> Any:
        scored = tuple(replace(s, stored=b) for s, b in zip(scores(), stored, strict=True))
        return judged(between("mgd3", RANDOM, 0.063, 0.02), scored=scored)

    def test_of_each_set_is_on_the_page_with_its_soft_labels(self) -> None:
        html = render(report(judgement=self.judgement(*self.STORED)))
        cells = [f'<td class="num">{shown}</td>' for shown in ("2", "2.5 + 12.3", "–")]
        assert all(cell in html for cell in cells) and "soft labels that are stored" in Reader(html).text
        plain = Reader(render(report(judgement=self.judgement((2_000, 0), (2_500, 0), None)))).text
        assert "kB is the storage" in plain and "soft labels that are stored" not in plain

    def test_of_each_set_is_in_result_json(self, monkeypatch: pytest.MonkeyPatch) -> None:
        prepared: Any = SimpleNamespace(config=SimpleNamespace(method="mgd3"))
        monkeypatch.setattr(numbers, "score_rows", lambda _: self.judgement(*self.STORED).scores)
        assert numbers.storage(Results(prepared)) == {
            "images/bytes": 2_000, "labels/bytes": 0,
            "metrics/random/images/bytes": 2_500, "metrics/random/labels/bytes": 12_340,
        }  # fmt: skip
