"""A curriculum that is judged by latents, and one that asks the generator for gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from curricula import begun as begun  # the fixture
from curricula import fitted_here, grown, prepared
from curricula import root as root  # the fixture

from raydistill.errors import BadInput, StageFailed
from raydistill.evaluation.score import Score
from raydistill.guidance.learnability import CURRENT, REFERENCE, LearnabilityConfig
from raydistill.models.device import Placement
from raydistill.models.latent_classifier import LatentClassifier
from raydistill.pipeline import curriculum
from raydistill.pipeline.steps import Steps
from raydistill.stages.evaluation import latent_judge, trainer
from raydistill.stages.runner import serial
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.stages.syntheses.increment import CHOSEN, REJECTED, Judge
from raydistill.store import schemas

CPU = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
LATENT = {"space": "latent"}


@pytest.fixture
def fitted() -> Iterator[list[str]]:
    with fitted_here() as labels:
        yield labels


def test_no_student_is_trained_and_the_best_latents_are_kept(root: Path, fitted: list[str]) -> None:
    p = prepared(root, learnability=LATENT)
    made, began = grown(p)
    assert fitted == [] and [name for name in began if name.startswith("judge")] == ["judge reference", "judge lgd 1"]
    steps, v = Steps(p, serial), p.variants[0]
    seed = DistilledSet(made.parts[:1])
    specs = {role: curriculum.of_latents(steps, v, of, role) for role, of in ((REFERENCE, None), (CURRENT, seed))}
    judge = Judge({role: LatentClassifier(spec, CPU) for role, spec in specs.items()}, 0.5, CPU)
    table = made.parts[1].read()
    ids = [["3", "7"][i] for i in table["class_index"].to_pylist()]
    scores = judge(schemas.tensor_numpy(table["latent"]).copy(), ids)  # as made, and not as read, it can be written
    for row, score in zip(table.to_pylist(), scores, strict=True):
        traced = {t["name"]: t["value"] for t in row["trace"] if t["step"] == 0 or t["name"] == "score"}
        assert traced[CHOSEN] == pytest.approx(score, abs=1e-4) and traced[CHOSEN] >= traced[REJECTED]
        assert "score" in traced, "it led as well as chose"
    assert grown(p)[1] == [], "which is found again"


def test_judges_are_tested_on_latents_that_none_is_trained_on(root: Path) -> None:
    p = prepared(root)
    steps = Steps(p, serial)
    stage = latent_judge.stage(p.run, None, steps.classes(), ["3", "7"], p.shape, 8, 10, 0, p.config.sample)
    assert isinstance(stage.work, latent_judge.JudgeWork)
    (seen, labels, _), (held_out, _, _) = stage.work.real_latents()
    assert len(seen) + len(held_out) == 41 and len(held_out) == 3 and set(labels.tolist()) == {0, 1}
    rows = {z.tobytes() for z in seen.numpy()}
    assert not any(z.tobytes() in rows for z in held_out.numpy())
    share, tested, chance = latent_judge.accuracy(steps.run_stage(stage), 2)
    assert tested == 3 and share > 0.5
    assert chance == pytest.approx(2 / 3), "two of the three are of one class"


def test_a_judge_that_learns_nothing_stops_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_judge, "RATE", 0.0)
    with pytest.raises(
        StageFailed, match=r"^reference: a classifier of latents .* learned .*\(lgd\.reference_epochs\)$"
    ):
        grown(prepared(root, learnability=LATENT))
    with pytest.raises(
        StageFailed, match=r"^current: .* learned .*\(lgd\.increment\), or .*\(learnability\.space=pixel\)$"
    ):
        grown(prepared(root, learnability=LATENT | {"omega": 0.0}, lgd={"omega": 0.0}))


def test_one_that_names_the_largest_class_has_learned_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two classes of which one has nine in ten."""
    monkeypatch.setattr(latent_judge, "accuracy", lambda sealed, classes: (0.9, 100, 0.9))
    with pytest.raises(StageFailed, match=r"^reference: .* 90\.0 % .* chance gives 90\.0 %: it has learned nothing"):
        grown(prepared(root, learnability=LATENT))


def test_chance_is_of_the_test_images_that_could_be_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three in four are of one class, of a split whose classes are even but for broken images."""
    steps = Steps(prepared(root), serial)
    assert not steps.prepared.splits.test.uneven
    score = Score(0.75, 0.75, [], [1.0, 0.0], [], None, None, None, tested=[30, 10])
    monkeypatch.setattr(trainer, "score", lambda training: score)
    with pytest.raises(StageFailed, match=r"^current: a student is right on 75\.0 % .* chance gives 75\.0 %"):
        curriculum.judged("a student", cast(Any, None), steps)


def test_where_every_class_is_one_image_none_is_left_to_judge_by(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = prepared(root, learnability=LATENT)
    monkeypatch.setattr(latent_judge, "accuracy", lambda sealed, classes: (0.0, 0, 0.0))
    with pytest.raises(StageFailed, match=r"^reference: no class has a second .*\(learnability\.space=pixel\)$"):
        grown(p)


def test_a_teacher_who_is_not_asked_is_none_of_it(root: Path, fitted: list[str]) -> None:
    """Without a file of its own, and to the same images: a reference of weight 0 is no part of them."""
    alone = {"learnability": LATENT | {"omega": 0.0}}
    made, began = grown(prepared(root, lgd={"omega": 0.0, "reference": "teacher"}, **alone))
    assert fitted == [] and "reference" not in " ".join(began)
    again, found = grown(prepared(root, lgd={"omega": 0.0}, **alone))
    assert found == [] and again.digest == made.digest


def test_asking_the_generator_for_gradients_is_counted_and_makes_another_set(root: Path, fitted: list[str]) -> None:
    def increment(**own: object) -> tuple[np.ndarray, list[int]]:
        made, _ = grown(prepared(root, lgd={"candidates": 1}, learnability={"scale": 0.5, **own}))
        table = made.parts[1].read(["latent", "nfe"])
        return schemas.tensor_numpy(table["latent"]), table["nfe"].to_pylist()

    (plain, calls), (through, more) = increment(), increment(through_denoiser=True)
    assert set(calls) == {2} and set(more) == {3}, "one of the two steps is guided"
    assert np.isfinite(through).all() and np.abs(plain - through).max() > 1e-3


def test_what_does_not_go_together_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"learnability\.decoder decodes for learnability\.space=pixel; leave one"):
        prepared(tmp_path / "run", learnability=LATENT | {"decoder": "tiny"})
    with pytest.raises(BadInput, match=r"^lgd\.reference=teacher sees images, and learnability\.space=latent wants"):
        prepared(tmp_path / "run", learnability=LATENT, lgd={"reference": "teacher"}, teacher={"path": "x"})


def test_keys_that_came_later_add_nothing_to_an_identity_at_their_default() -> None:
    """Increments that were made before them are found."""
    assert not {"space", "through_denoiser", "every", "shrink"} & set(LearnabilityConfig().read())
    assert LearnabilityConfig(space="latent").read()["space"] == "latent"
