"""What is decoded for the score may be smaller than the image: latents averaged over squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from analytic import batch, noise
from pydantic import ValidationError
from samples import write_student
from test_learnability import EXACT, guide
from tiny_run import config

from raydistill.guidance.learnability import CURRENT, REFERENCE, LearnabilityConfig, smaller
from raydistill.guidance.networks import Networks
from raydistill.methods.resolve import resolve
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.vae import Vae, VaeSpec

LATENT = (4, 8, 8)


def settled(source: int = 32, student: int = 16, lgd: dict[str, Any] | None = None, **own: Any) -> dict[str, Any]:
    """What the learnability of an `lgd` reads, for images and students of so many pixels a side."""
    sizes = {"source": {"image_size": source}, "evaluate": {"protocol": {"image_size": student}}}
    growth = resolve(config(method="lgd", learnability=own, lgd=lgd or {}, sampler={"steps": 50}, **sizes)).growth
    assert growth is not None and growth.next.sampling is not None
    (term,) = growth.next.sampling.terms
    read = term.own_read()
    assert read is not None
    return read


def test_squares_are_averaged_and_an_odd_rest_is_too() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert smaller(x, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert smaller(x, 1) is x and smaller(x, 16).tolist() == [[[[7.5]]]]
    assert smaller(torch.ones(2, 4, 5, 5), 2).shape == (2, 4, 2, 2)


def test_a_gradient_is_the_smaller_image_s_shared_evenly_by_each_square(tmp_path: Path) -> None:
    """Of the real networks, in float64; S is that of the smaller latents."""
    loaded = {
        role: Classifier(ClassifierSpec(write_student(tmp_path / role, mean=[m] * 3)), EXACT)
        for role, m in ((CURRENT, 0.5), (REFERENCE, 0.3))
    }
    half, whole = guide(shrink=2), guide()
    for guidance in (half, whole):
        guidance.bind(Networks(1.3, ["7", "3"], Vae(VaeSpec(None), EXACT), loaded))
    slots, z = batch(2, shape=LATENT), noise(3, 2, LATENT).double()
    value, slope = half.score(z, slots)
    of_small, small_slope = whole.score(smaller(z, 2), slots)
    torch.testing.assert_close(value, of_small)
    spread = small_slope.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    torch.testing.assert_close(slope, spread)
    assert not torch.allclose(slope, whole.score(z, slots)[1])


@pytest.mark.parametrize(
    ("source", "student", "times"), [(32, 16, 2), (128, 64, 2), (256, 32, 2), (32, 32, None), (32, 24, None)]
)
def test_by_itself_it_halves_what_students_see_half_of(source: int, student: int, times: int | None) -> None:
    assert settled(source, student).get("shrink") == times


def test_where_nothing_is_smaller_what_was_made_before_is_found() -> None:
    before = settled(32, 32)
    assert "shrink" not in before and settled(32, 16, shrink=1) == before
    assert settled(32, 16) == {**before, "shrink": 2} == settled(32, 32, shrink=2), "whether it was said or not"


def test_what_is_not_decoded_is_not_made_smaller() -> None:
    assert "shrink" not in settled(scale=0.0) and "shrink" not in settled(space="latent")
    with pytest.raises(
        ValidationError, match=r"learnability\.shrink is of what learnability\.space=pixel decodes; leave"
    ):
        LearnabilityConfig(space="latent", shrink=2)


def test_a_teacher_sees_the_whole_image() -> None:
    assert "shrink" not in settled(lgd={"reference": "teacher"})
