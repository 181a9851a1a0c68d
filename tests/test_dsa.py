"""The parts of DSA, closed forms; IDC's way through them, and what a draw depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raydistill.config import ProtocolConfig
from raydistill.evaluation.augment import Augment
from raydistill.evaluation.colour import STATISTICS, normalise, unit_range
from raydistill.evaluation.dsa import draw_colours, draw_scales, draw_shifts, draw_turns, move, recoloured
from raydistill.evaluation.dsa_strategy import OF_IDC, draw_part, draw_strategic, strategic
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe, Setting, resolve

SIZE = 32
STILL = np.tile(np.eye(2, 3, dtype=np.float32), (4, 1, 1))


def noise(n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3, SIZE, SIZE)).astype(np.float32))


def coloured(offset: float, saturation: float, contrast: float) -> torch.Tensor:
    return recoloured(noise(), np.tile(np.float32([offset, saturation, contrast]), (4, 1)))


class TestColour:
    def test_each_part_is_its_formula(self) -> None:
        x = noise()
        torch.testing.assert_close(coloured(0, 1, 1), x, rtol=0, atol=1e-5)
        torch.testing.assert_close(coloured(0.3, 1, 1), x + 0.3, rtol=0, atol=1e-5)
        grey = x.mean(1, keepdim=True)
        torch.testing.assert_close(coloured(0, 0, 1), grey.expand_as(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(coloured(0, 2, 1), 2 * x - grey, rtol=0, atol=1e-5)
        level = x.mean((1, 2, 3), keepdim=True)
        torch.testing.assert_close(coloured(0, 1, 0.5), (x + level) / 2, rtol=0, atol=1e-5)

    def test_its_ranges_are_the_releases(self) -> None:
        colour = draw_colours(4000, 0)
        for column, (low, high) in zip(colour.T, ((-0.5, 0.5), (0, 2), (0.5, 1.5)), strict=True):
            assert low <= column.min() < low + 0.01 and high - 0.01 < column.max() <= high
            assert column.mean() == pytest.approx((low + high) / 2, abs=0.02)


class TestMoves:
    @pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (-4, 2), (0, -1)])
    def test_a_shift_is_by_whole_pixels_and_shows_nothing_beyond(self, right: int, down: int) -> None:
        x, where = noise(), STILL.copy()
        where[:, :, 2] = np.float32([right, down]) * 2 / SIZE
        padded = F.pad(x, (4, 4, 4, 4))
        expected = padded[:, :, 4 + down : 4 + down + SIZE, 4 + right : 4 + right + SIZE]
        torch.testing.assert_close(move(x, where), expected, rtol=0, atol=1e-4)

    def test_shifts_are_even_over_an_eighth_of_the_side_each_way(self) -> None:
        pixels = draw_shifts(9000, SIZE, 0.125, 0)[:, :, 2] * SIZE / 2
        values, counts = np.unique(pixels, return_counts=True)
        assert values.tolist() == list(range(-4, 5)) and (np.abs(counts / 2000 - 1) < 0.1).all()

    def test_a_quarter_turn_is_one(self) -> None:
        where = np.tile(np.float32([[0, -1, 0], [1, 0, 0]]), (4, 1, 1))
        torch.testing.assert_close(move(noise(), where), noise().rot90(1, (2, 3)), rtol=0, atol=1e-4)

    def test_sides_are_scaled_each_by_itself(self) -> None:
        where = draw_scales(4000, 0)
        sides = where[:, (0, 1), (0, 1)]
        assert sides.min() == pytest.approx(1 / 1.2, abs=0.01) and sides.max() == pytest.approx(1.2, abs=0.01)
        assert not where[:, :, 2].any() and abs(np.corrcoef(sides.T)[0, 1]) < 0.05

    def test_turns_are_within_fifteen_degrees(self) -> None:
        where = draw_turns(4000, 0)
        angles = np.degrees(np.arctan2(where[:, 1, 0], where[:, 0, 0]))
        assert -15 <= angles.min() < -14.8 and 14.8 < angles.max() <= 15
        rotations = where[:, :, :2]
        assert not where[:, :, 2].any() and np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(2), atol=1e-5)


def data(value: int | None = None) -> ImageSet:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 3, SIZE, SIZE), dtype=np.uint8)
    if value is not None:
        pixels[:] = value
    return ImageSet(torch.from_numpy(pixels), torch.arange(12) % 2, torch.ones(12))


def recipe(classes: int, **more: object) -> Recipe:
    return resolve(ProtocolConfig(name="hard_cifar", image_size=SIZE, **more), Setting(1, classes, SIZE, "convnet"))


class TestHardCifar:
    def test_images_are_seen_by_cifars_statistics(self) -> None:
        mean, std = (torch.tensor(v)[:, None, None] for v in STATISTICS["cifar"])
        pixels = data().pixels
        torch.testing.assert_close(normalise(pixels, "cifar"), (pixels / 255 - mean) / std, rtol=0, atol=1e-5)
        torch.testing.assert_close(unit_range(normalise(pixels, "cifar"), "cifar"), pixels / 255, rtol=0, atol=1e-6)

    def test_a_batch_is_flipped_recoloured_and_moved_by_one_of_three(self) -> None:
        images, rows, parts = data(), np.arange(12), set[str]()
        augment, d = Augment(images, recipe(10, flip=False), 5), draw_strategic(12, SIZE, 5, 2)
        for step in range(9):
            part = draw_part(OF_IDC, 5, step)
            expected = strategic(recoloured(normalise(images.pixels, "cifar"), d.colour), part, d)
            torch.testing.assert_close(augment(2, rows, step), expected, rtol=0, atol=1e-5)
            parts.add(part)
        assert parts == {"crop", "scale", "rotate"}

    def test_beyond_the_border_lies_black_for_a_hundred_classes(self) -> None:
        """White images: every pixel is white or black, and the black ones are the rows and columns that came in."""
        images, rows = data(255), np.arange(12)
        seen = unit_range(Augment(images, recipe(100, flip=False), 5)(2, rows), "cifar")
        shifts = np.abs(np.rint(draw_shifts(12, SIZE, 0.125, 5, 2)[:, :, 2] * SIZE / 2))
        for image, (right, down) in zip(seen, shifts, strict=True):
            assert float(image.sum()) == pytest.approx(3 * (SIZE - right) * (SIZE - down), abs=0.1)
