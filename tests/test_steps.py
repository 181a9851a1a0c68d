"""The stages of a run called one by one: each brings what it needs, once, in whatever order it is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_run import config, few

from raydistill.methods.resolve import Variant, resolve
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.steps import Steps
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.runner import Stage, serial
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Prepared


class Watched(Steps):
    """Its stages in the order in which they began, by the names that they are shown under."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared, serial)
        self.began: list[str] = []

    def _carry(self, stage: Stage, name: str) -> Any:
        self.began.append(name)
        return super()._carry(stage, name)


@pytest.fixture
def steps(tmp_path: Path) -> Watched:
    asked = config(run_dir=str(tmp_path / "run"), evaluate={**config().evaluate.model_dump(), "baselines": ["random"]})
    p = prepare(asked)
    return Watched(replace(p, splits=replace(p.splits, train=few(p.splits.train, 21))))


def another(v: Variant, **sampler: Any) -> Variant:
    return resolve(v.config.model_copy(update={"sampler": v.config.sampler.model_copy(update=sampler)}))


def weighing(v: Variant, mode: str) -> Variant:
    return resolve(v.config.model_copy(update={"weights": v.config.weights.model_copy(update={"mode": mode})}))


def test_a_plain_run_takes_them_in_this_order(steps: Watched) -> None:
    done = job.make(steps, "evaluate")
    job.judge(steps, done)
    assert steps.began == [
        *("encode", "group", "cluster", "plan mgd3", "sample mgd3", "plan random", "sample random"),
        *("measure mgd3", "measure random"),
    ]


def test_the_last_brings_all_that_it_needs_and_nothing_else(steps: Watched) -> None:
    main, _ = steps.prepared.variants
    syntheses = steps.syntheses(main)
    assert steps.began == ["encode", "group", "cluster", "plan mgd3", "sample mgd3"] and steps.computed
    assert steps.syntheses(main) == syntheses and steps.classes().rows == len(steps.prepared.splits.train)
    assert len(steps.began) == 5, "each once"
    again = Watched(steps.prepared)
    assert again.syntheses(main).digest == syntheses.digest and not again.computed, "and what another found is found"


def test_increments_share_what_comes_before_them(steps: Watched) -> None:
    """As a curriculum calls them: a set grows, and is measured in between."""
    main, _ = steps.prepared.variants
    parts = [steps.syntheses(main)]
    small = steps.measured(SetRef.of("small", DistilledSet(tuple(parts))))
    parts.append(steps.syntheses(main, 1))
    large = steps.measured(SetRef.of("large", DistilledSet(tuple(parts))))
    assert small.digest != large.digest and parts[0].digest != parts[1].digest
    assert steps.began[3:] == [
        *("plan mgd3", "sample mgd3", "measure small", "plan mgd3 1", "sample mgd3 1", "measure large"),
    ]


def test_variants_of_one_method_are_told_apart(steps: Watched) -> None:
    """As a sweep calls them: another number of sampling steps is other images of the same plan."""
    main, _ = steps.prepared.variants
    sets = [steps.syntheses(v) for v in (main, another(main, steps=3), main)]
    assert sets[0] == sets[2] != sets[1]
    assert steps.began[3:] == ["plan mgd3", "sample mgd3", "sample mgd3"]


def test_weights_are_of_the_images_as_they_are(steps: Watched) -> None:
    """As a sweep over weights calls them: the images are made once."""
    main, _ = steps.prepared.variants
    plain = steps.weighed(main)
    other = steps.weighed(weighing(main, "density"))
    assert other.parts == plain.parts and other.digest != plain.digest
    assert steps.began[3:] == ["plan mgd3", "sample mgd3", "weigh mgd3"]


def test_nothing_begins_once_another_run_has_the_directory(steps: Watched) -> None:
    def lost() -> None:
        raise RuntimeError("lost")

    steps.latents()
    steps.still_ours = lost
    assert steps.latents().rows == len(steps.prepared.splits.train), "what is there may be read"
    with pytest.raises(RuntimeError, match="lost"):
        steps.classes()
