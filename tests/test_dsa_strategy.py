"""DSA by a strategy, as published sets are evaluated: closed forms of its parts, and what is drawn for whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_dsa import SIZE, data, noise

from raydistill.config import ProtocolConfig
from raydistill.errors import BadInput
from raydistill.evaluation.augment import Augment
from raydistill.evaluation.colour import normalise
from raydistill.evaluation.dsa import move, recoloured
from raydistill.evaluation.dsa_strategy import PARTS, PUBLISHED, Strategic, draw_part, draw_strategic, strategic
from raydistill.evaluation.optimiser import SCHEDULES, optimiser, set_rate
from raydistill.evaluation.recipe import Recipe, Setting, describe, resolve, title


def recipe(**more: object) -> Recipe:
    return resolve(ProtocolConfig(**{"name": "dsa", "image_size": SIZE} | more), Setting(1, 10, SIZE, "convnet"))


def drawn(n: int = 4) -> Strategic:
    return draw_strategic(n, SIZE, 0)


class TestParts:
    def test_colours_and_moves_are_those_of_dsa(self) -> None:
        x, d = noise(), drawn()
        torch.testing.assert_close(strategic(x, "color", d), recoloured(x, d.colour))
        for part in ("crop", "scale", "rotate"):
            torch.testing.assert_close(strategic(x, part, d), move(x, d.where[part]))

    def test_half_of_the_images_are_flipped(self) -> None:
        x, d = noise(), drawn(2000)
        assert abs(d.flip.mean() - 0.5) < 0.05
        few = d[np.arange(4)]
        for before, after, turned in zip(x, strategic(x, "flip", few), few.flip, strict=True):
            torch.testing.assert_close(after, before.flip(2) if turned else before)

    def test_a_square_of_half_a_side_is_cut_out_and_the_border_cuts_it(self) -> None:
        x = torch.ones(3, 3, SIZE, SIZE)
        middle, corner, beyond = (16, 16), (0, 0), (SIZE, SIZE)
        d = Strategic(np.zeros((3, 3)), {}, np.array([middle, corner, beyond]), np.zeros(3, bool))
        seen = strategic(x, "cutout", d)
        assert [int(image[0].eq(0).sum()) for image in seen] == [16 * 16, 8 * 8, 8 * 8]
        assert not seen[0, :, 8:24, 8:24].any() and not seen[1, :, :8, :8].any() and not seen[2, :, 24:, 24:].any()

    def test_centres_lie_anywhere_evenly(self) -> None:
        centres = drawn(6600).hole
        values, counts = np.unique(centres, return_counts=True)
        assert values.tolist() == list(range(SIZE + 1)) and (np.abs(counts / 400 - 1) < 0.25).all()

    def test_a_batch_goes_through_one_part_and_all_come_up_alike(self) -> None:
        counts = {part: 0 for part in PARTS}
        for step in range(3000):
            counts[draw_part(PARTS, 0, step)] += 1
        assert all(abs(n / 500 - 1) < 0.15 for n in counts.values())


class TestTraining:
    def test_normalised_images_go_through_the_part_of_the_step(self) -> None:
        images, rows, r = data(), np.arange(12)[::-1].copy(), recipe()
        plain, d = normalise(images.pixels, "cifar")[rows], draw_strategic(12, SIZE, 5, 2)[rows]
        augment, parts = Augment(images, r, 5), set[str]()
        for step in range(12):
            part = draw_part(PARTS, 5, step)
            torch.testing.assert_close(augment(2, rows, step), strategic(plain, part, d))
            parts.add(part)
        assert len(parts) > 3

    def test_a_draw_is_the_keys_and_the_rows(self) -> None:
        few, many = draw_strategic(5, SIZE, 1, 2), draw_strategic(50, SIZE, 1, 2)[np.arange(5)]
        assert np.array_equal(few.hole, many.hole) and np.array_equal(few.where["rotate"], many.where["rotate"])

    def test_the_protocol_is_the_published_one(self) -> None:
        r = recipe()
        assert (r.epochs, r.batch, r.optimiser, r.lr, r.momentum, r.weight_decay) == (1001, 256, "sgd", 0.01, 0.9, 5e-4)
        assert (r.dsa, r.cutmix, r.flip, r.crop_scale, r.jitter, r.lighting) == (PUBLISHED, 0, False, 1, 0, 0)
        assert (r.statistics, r.evaluations, r.test_crop) == ("cifar", 1, 1)
        rates = [SCHEDULES[r.schedule](epoch, r.epochs) for epoch in (0, 501, 502, 1000)]
        assert rates == [1, 1, 0.1, 0.1]
        assert PUBLISHED == "color_crop_cutout_flip_scale_rotate" and PUBLISHED in describe(r)

    def test_where_the_rate_falls_the_optimiser_is_new(self) -> None:
        """As the scripts do it: the first step behind the middle knows no momentum; of other schedules it does."""
        for schedule, fresh in (("middle", True), ("multistep", False)):
            r = replace(recipe(epochs=4), schedule=schedule, weight_decay=0.0)
            weight = torch.nn.Linear(1, 1, bias=False)
            opt = optimiser(weight, r)
            moves = []
            for seen in range(0, r.visits, r.visits // 4):
                set_rate(opt, r, seen)
                before = weight.weight.item()
                weight.weight.grad = torch.ones(1, 1)
                opt.step()
                moves.append((before - weight.weight.item()) / opt.param_groups[0]["lr"])
            assert moves[1] == pytest.approx(1.9, abs=1e-3)
            assert moves[3] == pytest.approx(1.0 if fresh else 3.439, abs=1e-3)

    def test_any_protocol_takes_a_strategy_and_names_it(self) -> None:
        p = ProtocolConfig(name="hard", dsa="crop_flip")
        assert resolve(p, Setting(1, 10, SIZE, "convnet")).dsa == "crop_flip" and "dsa=crop_flip" in title(p)
        assert recipe(name="hard_cifar").dsa == recipe(dsa=True).dsa == "idc"
        assert recipe(name="hard_cifar", dsa=False).dsa is False

    @pytest.mark.parametrize("strategy", ["colour_crop", "crop_crop", ""])
    def test_what_is_no_strategy_is_refused(self, strategy: str) -> None:
        with pytest.raises(BadInput, match="is no strategy; join some of color, crop"):
            recipe(dsa=strategy)
