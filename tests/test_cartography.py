"""What a training is sure of, image by image of its set: in the score, in numbers and on the page of a curriculum."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from test_evaluation import CPU, images, recipe
from test_report import report

from raydistill.evaluation import cartography
from raydistill.evaluation.cartography import Certainty, ends_of_epochs, of_set, shares
from raydistill.evaluation.colour import normalise
from raydistill.evaluation.score import PLAIN, Score
from raydistill.evaluation.train import Student, TrainingProgress, train_student
from raydistill.report.cartography import DataMap
from raydistill.report.increments import ChoiceRow
from raydistill.report.line import Line
from raydistill.report.page import render


def trained() -> tuple[Score, torch.nn.Module]:
    own = recipe(visits=24 * 52, evaluations=3)
    return train_student(Student("convnet", 8, 2, 0), own, images(24, contrast=6.0), images(8, 2, 9), CPU)


def test_mean_and_spread_are_over_the_epochs() -> None:
    p = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    sums = Certainty.of(7)
    for row in p:
        sums.add(row)
    mean, spread = sums.mean_and_spread()
    np.testing.assert_allclose(mean, p.double().mean(0), atol=1e-4)
    np.testing.assert_allclose(spread, p.double().std(0, correction=0), atol=1e-4)


def test_a_training_looks_at_its_own_images_and_is_not_changed_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    score, net = trained()
    assert score.truth_mean is not None and score.truth_spread is not None
    assert len(score.truth_mean) == len(score.truth_spread) == 24 and max(score.truth_spread) > 0
    data = images(24, contrast=6.0)
    with torch.no_grad():
        now = net.eval()(normalise(data.pixels)).softmax(1)[torch.arange(24), data.labels]
    torch.testing.assert_close(of_set(net, data, PLAIN), now)
    monkeypatch.setattr(cartography, "MOST", 23)
    blind, other = trained()
    assert blind.truth_mean is None and blind.curve == score.curve
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_training_that_went_on_from_a_state_without_it_has_none() -> None:
    """As older versions left them: means over some of the tests would look like those of all."""
    progress = TrainingProgress(step=1, curve=[(1, 0.5)])
    progress.map(torch.ones(3))
    assert progress.certainty is None


def test_a_set_is_mapped_after_each_of_its_first_epochs() -> None:
    own = recipe(visits=24 * 50, batch=7)
    assert sorted(ends_of_epochs(24, own)) == list(range(4, 201, 4))
    assert ends_of_epochs(25, own) == set(), "which is not gone through so often"


def test_a_score_of_an_older_version_is_read() -> None:
    tree = json.loads(json.dumps(trained()[0].tree()))
    assert Score.of(tree).truth_mean == tree["truth_mean"]
    older = {k: v for k, v in tree.items() if not k.startswith("truth")}
    assert Score.of(older).truth_mean is None


def test_what_spreads_is_informative_and_what_is_never_learned_hard() -> None:
    mean, spread = np.array([0.9, 0.5, 0.1, 0.1]), np.array([0.05, 0.3, 0.05, 0.25])
    assert shares(mean, spread) == {"hard": 0.25, "informative": 0.5, "easy": 0.25}


def test_the_page_draws_each_image_in_the_colour_of_its_increment() -> None:
    mean, spread = np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 0.25])
    own = DataMap("lgd", "convnet", mean, spread, np.array([0, 1, 1]), True, shares(mean, spread))
    other = DataMap("dit", "convnet", mean, spread, np.zeros(3, int), False, shares(mean, spread))
    line = Line("increment 2", np.array([3.0, 4.0]), np.array([1.0, -0.5]), np.zeros(2))
    html = render(report(maps=(own, other), choices=(ChoiceRow(2, 2.25, 1.5, line),)))
    drawn = re.findall(r'<circle class="point (main|line\d)" cx="([\d.]+)" cy="([\d.]+)" r="6">', html)
    assert [c for c, _, _ in drawn] == ["main", "line0", "line0"], "of the run's own set alone"
    (x0, y0), (x1, y1), (x2, y2) = ((float(x), float(y)) for _, x, y in drawn)
    assert x0 < x2 < x1 and y0 < y1 < y2 and x2 == pytest.approx((x0 + x1) / 2, abs=0.2)
    section = html[html.index('id="increments"') :]
    for text in ("What was learned of the set itself", "Score over the guided steps", '<td class="num">2.25</td>'):
        assert text in section, text
    assert ">-0.5</td>" in section or ">−0.5</td>" in section, "at the first step, whose index is the highest"
    assert section.count('<td class="num">66.7</td>') == 2 and "What was learned" not in render(report())
