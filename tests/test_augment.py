"""What augmentation does to pixels: against torch's own resizing, plain loops over pixels, and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from raydistill.config import ProtocolConfig
from raydistill.evaluation import colour, geometry
from raydistill.evaluation.augment import Augment
from raydistill.evaluation.colour import Colours, normalise, recolour, unit_range
from raydistill.evaluation.cutmix import cutmix
from raydistill.evaluation.geometry import Boxes, draw_boxes, draw_patches, matrices, resample
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe, Setting, resolve

CPU = torch.device("cpu")
SIZE = 16


def noise(n: int, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 255


def seen(x: torch.Tensor, boxes: Boxes, patches: np.ndarray | None = None) -> torch.Tensor:
    return resample(x, *matrices(boxes, x.shape[-1], patches, CPU))


class TestCrops:
    def test_a_box_is_cut_out_and_resized(self) -> None:
        """Bilinear, half-pixel centres, nothing from outside the box."""
        x, boxes = noise(40), draw_boxes(40, SIZE, 0.1, False, 0)
        for i, y in enumerate(seen(x, boxes)):
            t, left, h, w = boxes.top[i], boxes.left[i], boxes.height[i], boxes.width[i]
            cut = x[i : i + 1, :, t : t + h, left : left + w]
            expected = F.interpolate(cut, (SIZE, SIZE), mode="bilinear", align_corners=False)[0]
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-3)

    def test_a_flip_is_the_mirror_image_of_the_crop(self) -> None:
        x, boxes = noise(20), draw_boxes(20, SIZE, 0.3, False, 0)
        flipped = Boxes(boxes.top, boxes.left, boxes.height, boxes.width, np.ones(20, bool))
        torch.testing.assert_close(seen(x, flipped), seen(x, boxes).flip(3))

    def test_whole_images_stay_as_they_are(self) -> None:
        x = noise(5)
        assert torch.equal(seen(x, draw_boxes(5, SIZE, 1.0, False, 0)), x)

    @pytest.mark.parametrize("scale", [0.08, 0.5])
    def test_boxes_are_drawn_as_torchvision_draws_them(self, scale: float) -> None:
        """One by one: area and aspect ratio until a box fits, at most ten times, then a place; the same statistics."""
        boxes = draw_boxes(4000, 64, scale, True, 0)
        draw = np.random.default_rng(1)
        reference = np.array([reference_box(64, scale, draw) for _ in range(4000)])
        mine = np.stack([boxes.top, boxes.left, boxes.height, boxes.width], 1)
        assert (mine >= [0, 0, 1, 1]).all() and (mine[:, :2] + mine[:, 2:] <= 64).all()
        np.testing.assert_allclose(mine.mean(0), reference.mean(0), atol=1.2)
        np.testing.assert_allclose(mine.std(0), reference.std(0), atol=0.8)
        area, expected = mine[:, 2] * mine[:, 3] / 64**2, reference[:, 2] * reference[:, 3] / 64**2
        shares = np.arange(0.1, 1, 0.1)
        np.testing.assert_allclose(np.quantile(area, shares), np.quantile(expected, shares), atol=0.03)
        assert 0.46 < boxes.flip.mean() < 0.54

    def test_a_draw_belongs_to_its_sample(self) -> None:
        """Not to how many others there are."""
        few, many = draw_boxes(5, 64, 0.3, True, 7, 3), draw_boxes(50, 64, 0.3, True, 7, 3)
        other = draw_boxes(5, 64, 0.3, True, 7, 4)
        for name in ("top", "left", "height", "width", "flip"):
            assert np.array_equal(getattr(few, name), getattr(many, name)[:5])
        assert not np.array_equal(few.left, other.left)


def reference_box(size: int, scale: float, draw: np.random.Generator) -> tuple[int, int, int, int]:
    for _ in range(10):
        area, ratio = size * size * draw.uniform(scale, 1), np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= size and 0 < h <= size:
            return draw.integers(size - h + 1), draw.integers(size - w + 1), h, w
    return 0, 0, size, size


class TestPatches:
    @pytest.mark.parametrize(("size", "factor"), [(16, 2), (17, 2), (16, 3), (16, 4)])
    def test_strips_are_put_in_a_new_order_side_by_side(self, size: int, factor: int) -> None:
        """Columns first, then rows, as concatenation does it; the last strip takes what is left over."""
        x, moved = noise(12, size), draw_patches(12, size, factor, 0)
        assert moved is not None
        whole = draw_boxes(12, size, 1.0, False, 0)
        y = seen(x, whole, moved)
        for i in range(12):
            rows, columns = (moved[side, i].argsort() for side in (0, 1))
            torch.testing.assert_close(y[i], x[i][:, rows][:, :, columns])
            for order in (rows, columns):
                step = size // factor
                strips = [[*range(s * step, size if s == factor - 1 else (s + 1) * step)] for s in range(factor)]
                starts = sorted(strips, key=lambda strip: list(order).index(strip[0]))
                assert order.tolist() == [k for strip in starts for k in strip]

    def test_every_order_comes_up_equally_often(self) -> None:
        moved = draw_patches(6000, 9, 3, 0)
        assert moved is not None
        for side in moved:
            orders, counts = np.unique(side, axis=0, return_counts=True)
            assert len(orders) == 6 and counts.min() > 850

    def test_a_crop_is_taken_after_the_shuffle(self) -> None:
        x, moved, boxes = noise(8), draw_patches(8, SIZE, 2, 0), draw_boxes(8, SIZE, 0.4, True, 0)
        shuffled = seen(x, draw_boxes(8, SIZE, 1.0, False, 0), moved)
        torch.testing.assert_close(seen(x, boxes, moved), seen(shuffled, boxes), rtol=0, atol=1e-3)

    def test_factor_1_is_none(self) -> None:
        assert draw_patches(4, 8, 1, 0) is None


class TestColour:
    def test_channels_are_normalised_with_imagenets_statistics(self) -> None:
        x = normalise(torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 4, 4))
        for c in range(3):
            mean, std = (values[c] for values in colour.STATISTICS["imagenet"])
            expected = (torch.tensor([0.0, 1.0]) - mean) / std
            torch.testing.assert_close(x[:, c, 0, 0], expected)

    def test_a_teacher_sees_the_pixels_between_0_and_1(self) -> None:
        pixels = noise(3).to(torch.uint8)
        torch.testing.assert_close(unit_range(normalise(pixels)), pixels / 255, rtol=0, atol=1e-6)

    def test_jitter_is_that_of_the_release_in_every_order(self) -> None:
        """Each step moves the image towards black, its mean grey, or its own grey; nothing is clipped."""
        x = noise(60)
        drawn = colour.draw_colours(60, 0.4, 0.1, 0)
        assert drawn is not None and len(np.unique(drawn.order, axis=0)) == 6
        y = unit_range(recolour(x, drawn))
        for i in range(60):
            torch.testing.assert_close(y[i], reference_colour(x[i] / 255, drawn, i), rtol=0, atol=1e-5)

    def test_factors_are_uniform_and_light_is_normal(self) -> None:
        drawn = colour.draw_colours(20000, 0.4, 0.1, 0)
        assert drawn is not None
        assert 0.6 <= drawn.factor.min() < 0.61 and 1.39 < drawn.factor.max() <= 1.4
        np.testing.assert_allclose(drawn.factor.mean(0), 1, atol=0.01)
        np.testing.assert_allclose(drawn.factor.std(0), 0.8 / np.sqrt(12), atol=0.01)
        components = drawn.light @ np.linalg.inv(np.array(colour.EIGENVECTORS)).T
        np.testing.assert_allclose(components.std(0), 0.1 * np.array(colour.EIGENVALUES), rtol=0.03)

    def test_without_jitter_and_light_nothing_is_drawn(self) -> None:
        assert colour.draw_colours(4, 0, 0, 0) is None


def reference_colour(x: torch.Tensor, drawn: Colours, i: int) -> torch.Tensor:
    def grey(x: torch.Tensor) -> torch.Tensor:
        return (0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]).expand(3, -1, -1)

    towards = {0: torch.zeros_like, 1: lambda x: grey(x).mean().expand_as(x), 2: grey}
    for step in drawn.order[i]:
        x = torch.lerp(x, towards[int(step)](x), 1 - float(drawn.factor[i, step]))
    return x + torch.from_numpy(drawn.light[i])[:, None, None]


class TestCutMix:
    @given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 6))
    def test_the_share_of_cutmix_is_the_area_left(self, seed: int, size: int, count: int) -> None:
        x = torch.arange(count, dtype=torch.float32)[:, None, None, None].repeat(1, 3, size, size)
        mix = cutmix(x, 1.0, 1.0, np.random.default_rng(seed))
        assert 0 <= mix.share <= 1 and sorted(mix.partner.tolist()) == list(range(count))
        for i in range(count):
            j = int(mix.partner[i])
            if i != j:
                assert (x[i] == i).float().mean().item() == pytest.approx(mix.share, abs=1e-6)
                assert (x[i] == j).float().mean().item() == pytest.approx(1 - mix.share, abs=1e-6)
        values = torch.arange(count, dtype=torch.float32)
        torch.testing.assert_close(mix.of(values), mix.share * values + (1 - mix.share) * mix.partner)

    def test_its_shares_are_spread_evenly(self) -> None:
        """beta = 1: the area u of the box is uniform before the border cuts it.

        Of a side sqrt(u) at a uniform place, sqrt(u) - u / 4 is inside on average, so the image keeps
        1 - E[(sqrt(u) - u / 4)^2] = 1 - (1/2 - 1/5 + 1/48).
        """
        shares = [cutmix(torch.zeros(1, 1, 64, 64), 1.0, 1.0, np.random.default_rng(s)).share for s in range(1500)]
        assert np.mean(shares) == pytest.approx(1 - (1 / 2 - 1 / 5 + 1 / 48), abs=0.03)
        assert min(shares) < 0.1 and max(shares) > 0.98

    def test_it_happens_as_often_as_asked(self) -> None:
        untouched = [cutmix(torch.zeros(2, 1, 8, 8), 0.3, 1.0, np.random.default_rng(s)).share == 1 for s in range(600)]
        assert 0.63 < np.mean(untouched) < 0.85, "boxes of no pixel leave the image alone too"


def recipe(**more: Any) -> Recipe:
    return resolve(ProtocolConfig(image_size=SIZE, visits=64, **more), Setting(1, 2, SIZE, "convnet"))


class TestAugment:
    def data(self, n: int = 12) -> ImageSet:
        return ImageSet(noise(n).to(torch.uint8), torch.arange(n) % 2, torch.ones(n))

    def test_a_sample_looks_the_same_in_any_batch(self) -> None:
        augment = Augment(self.data(), recipe(patches=2), 0)
        together, alone = augment(3, np.array([5, 2, 9])), augment(3, np.array([2]))
        torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-5)

    def test_another_epoch_or_seed_is_another_look(self) -> None:
        data, rows = self.data(), np.arange(12)
        one, same = Augment(data, recipe(), 0)(1, rows), Augment(data, recipe(), 0)(1, rows)
        assert torch.equal(one, same)
        for other in (Augment(data, recipe(), 0)(2, rows), Augment(data, recipe(), 1)(1, rows)):
            assert not torch.allclose(one, other, atol=0.1)

    def test_with_all_of_it_off_images_are_normalised_and_no_more(self) -> None:
        data = self.data()
        off = recipe(crop_scale=1.0, flip=False, jitter=0.0, lighting=0.0)
        assert torch.equal(Augment(data, off, 0)(0, np.arange(12)), normalise(data.pixels))

    def test_what_is_on_acts(self) -> None:
        data, rows = self.data(), np.arange(12)
        off: dict[str, Any] = {"crop_scale": 1.0, "flip": False, "jitter": 0.0, "lighting": 0.0, "patches": 1}
        plain = Augment(data, recipe(**off), 0)(0, rows)
        for on in ({"crop_scale": 0.5}, {"flip": True}, {"jitter": 0.4}, {"lighting": 0.1}, {"patches": 2}):
            assert not torch.allclose(Augment(data, recipe(**off | on), 0)(0, rows), plain, atol=1e-3), on


def test_matrices_have_one_unit_of_weight_a_pixel() -> None:
    rows, columns = matrices(draw_boxes(30, 32, 0.08, True, 0), 32, draw_patches(30, 32, 2, 0), CPU)
    for side in (rows, columns):
        torch.testing.assert_close(side.sum(2), torch.ones(30, 32), rtol=0, atol=1e-5)
        assert ((side > 1e-6).sum(2) <= 2).all()
    assert geometry.ATTEMPTS == 10
