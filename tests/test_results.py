"""The flat numbers of a run that are made of several accuracies."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from raydistill.errors import StageFailed
from raydistill.report.scores import FULL, RANDOM, ScoreRow
from raydistill.results.numbers import finite, label_robust, network_calls, of_sets
from raydistill.state import Results


def row(name: str, last: float, main: bool = False, student: str = "convnet") -> ScoreRow:
    return ScoreRow(name, student, 3, last, 0.0, last, 0.0, 10, main)


def test_dd_rankings_score_needs_the_set_random_images_and_all_of_them() -> None:
    rows = [row("mgd3", 0.5, True), row(RANDOM, 0.4), row(FULL, 0.9)]
    scores = label_robust(rows)
    assert scores["hlr/convnet"] == pytest.approx(0.4) and scores["ior/convnet"] == pytest.approx(0.1)
    alpha = 0.5 * 0.1 - 0.5 * 0.4
    assert scores["lrs/convnet"] == pytest.approx((math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1)), abs=1e-6)
    for lacking in range(3):
        assert label_robust(rows[:lacking] + rows[lacking + 1 :]) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_hold_is_named_in_one_line(value: float) -> None:
    with pytest.raises(StageFailed, match=r"^report: b is (nan|inf), and result\.json holds finite .*leave that out$"):
        finite({"a": 1.0, "b": value})
    assert finite({"a": 1.0}) == {"a": 1.0}


def test_each_student_has_its_own() -> None:
    rows = [row(n, v, n == "mgd3", s) for s in ("a", "b") for n, v in (("mgd3", 0.5), (RANDOM, 0.4), (FULL, 0.9))]
    assert {k for k in label_robust(rows) if k.startswith("lrs")} == {"lrs/a", "lrs/b"}


@pytest.mark.parametrize(("scale", "calls"), [(1.0, 10.0), (3.0, 5.0)])
def test_calls_are_those_of_an_image_and_a_doubled_batch_is_one(scale: float, calls: float) -> None:
    def variant(name: str, generates: bool = True) -> Any:
        config = SimpleNamespace(method=name, sampler=SimpleNamespace(cfg_scale=scale))
        return SimpleNamespace(config=config, method=SimpleNamespace(generates=generates))

    slots = SimpleNamespace(nfe=SimpleNamespace(mean=10.0))
    distilled: Any = SimpleNamespace(numbers=lambda: slots)
    variants = (variant("pgfm"), variant("dit"), variant(RANDOM, generates=False))
    prepared: Any = SimpleNamespace(config=variants[0].config, variants=variants)
    done = Results(prepared, syntheses=dict.fromkeys(("pgfm", "dit", RANDOM), distilled))
    flat = network_calls(done)
    assert flat == {"network_calls": calls, "metrics/dit/network_calls": calls}

    flat |= {"accuracy/convnet/mean": 0.4, "accuracy/dit/convnet/mean": 0.3}
    main, other, real = of_sets(done, flat)
    assert main[:3] == ("pgfm", "pgfm", True) and main[3]["accuracy/convnet/mean"] == 0.4
    assert other == ("dit", "dit", False, {"accuracy/convnet/mean": 0.3, "network_calls": calls})
    assert real[3] == {}
