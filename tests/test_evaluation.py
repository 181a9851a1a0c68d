"""Training of students: what augmentation does to pixels, what the budget is, what a score can be trusted for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydistill import registry
from raydistill.config import EvaluateConfig, ProtocolConfig
from raydistill.errors import StageFailed
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe, Setting, resolve
from raydistill.evaluation.score import Score, examine, packed, unpacked
from raydistill.evaluation.train import Student, batches, count_steps, exam_steps, train_student
from raydistill.models.device import halves, mixed

SIZE = 8
CPU = torch.device("cpu")
OFF = {"crop_scale": 1.0, "flip": False, "cutmix": 0.0, "jitter": 0.0, "lighting": 0.0}


def recipe(**more: Any) -> Recipe:
    base = {"visits": 640, "batch": 16, "lr": 0.05, "image_size": SIZE, "evaluations": 4, **OFF}
    plain = {k: more.pop(k) for k in list(more) if k in ("momentum", "tested_from")}
    return replace(resolve(ProtocolConfig(**(base | more)), Setting(8, 2, SIZE, "convnet")), **plain)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(count: int, classes: int = 2, seed: int = 0, contrast: float = 60.0) -> ImageSet:
    """Classes that differ in the stripe that is bright."""
    draw = rng(seed)
    labels = np.arange(count) % classes
    pixels = draw.normal(110, 25, (count, 3, SIZE, SIZE))
    for i, label in enumerate(labels):
        pixels[i, :, :, label * SIZE // classes : (label + 1) * SIZE // classes] += contrast
    return ImageSet(torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), torch.from_numpy(labels), torch.ones(count))


def train(data: ImageSet, test_on: ImageSet | None = None, seed: int = 0, classes: int = 2, **more: Any) -> Score:
    test_on = test_on or images(60, classes, 99)
    return train_student(Student("convnet", 8, classes, seed), recipe(**more), data, test_on, CPU)[0]


class TestBfloat16:
    """Half the bits in the network's arithmetic, and nowhere else."""

    @staticmethod
    def trained(dtype: str) -> tuple[Score, nn.Module]:
        test_on = images(60, seed=99)
        student, budget = Student("convnet", 8, 2, 0), recipe(visits=320)
        return train_student(student, budget, images(16), test_on, CPU, arithmetic=mixed(dtype, CPU))

    def test_learns_the_same_by_other_roundings_and_leaves_weights_as_they_were(self) -> None:
        (full, _), (half, two) = self.trained("float32"), self.trained("bfloat16")
        assert full.loss != half.loss and half.loss[-1][1] == pytest.approx(full.loss[-1][1], abs=0.05)
        assert half.last >= 0.9 and full.last >= 0.9
        assert {p.dtype for p in two.parameters()} == {torch.float32}
        assert any(not torch.equal(p, p.bfloat16().float()) for p in two.parameters()), "updates are not rounded"

    def test_is_not_the_default_and_auto_is_for_gpus(self) -> None:
        assert EvaluateConfig().dtype == "float32"
        assert [halves(d, CPU) for d in ("auto", "float32", "bfloat16")] == [False, False, True]
        assert halves("auto", torch.device("cuda")) and not halves("float32", torch.device("cuda"))


class TestBatches:
    @pytest.mark.parametrize(
        ("n", "batch", "visits"),
        [(10, 4, 20), (10, 64, 192), (1, 8, 2), (7, 7, 28), (30, 8, 815), (9, 4, 5), (100, 64, 64)],
    )
    def test_epochs_are_permutations_and_the_visits_are_exact(self, n: int, batch: int, visits: int) -> None:
        drawn = list(batches(n, recipe(batch=batch, visits=visits), 0))
        assert len(drawn) == count_steps(n, batch, visits) and max(len(rows) for _, rows, _ in drawn) <= batch
        assert [seen for _, _, seen in drawn] == np.cumsum([0, *(len(rows) for _, rows, _ in drawn)])[:-1].tolist()
        everything = np.concatenate([rows for _, rows, _ in drawn])
        assert len(everything) == visits
        for start in range(0, visits, n):
            epoch = everything[start : start + n]
            assert len(set(epoch.tolist())) == len(epoch) and max(epoch) < n

    def test_the_order_is_the_seeds(self) -> None:
        one, same, other = (np.concatenate([r for _, r, _ in batches(50, recipe(), s)]) for s in (0, 0, 1))
        assert np.array_equal(one, same) and not np.array_equal(one, other)

    @pytest.mark.parametrize("done", [0, 1, 3, 4, 17, 39, 40])
    def test_they_can_be_joined_anywhere(self, done: int) -> None:
        """After `done` steps: the same batches as those of a training from the start."""
        everything = list(batches(50, recipe(batch=16, visits=500), 3))
        joined = list(batches(50, recipe(batch=16, visits=500), 3, done))
        assert len(everything) == 40 and [(e, r.tolist(), v) for e, r, v in joined] == [
            (e, r.tolist(), v) for e, r, v in everything[done:]
        ]

    def test_tests_may_begin_late(self) -> None:
        """RDED: six tests in the last fifth of 300 epochs, ten epochs apart."""
        assert exam_steps(recipe(evaluations=6, tested_from=0.8), 300) == {250, 260, 270, 280, 290, 300}


class TestTraining:
    def test_an_easy_problem_is_learned(self) -> None:
        score = train(images(64, 4), classes=4, visits=2560)
        assert score.last > 0.95 and min(score.per_class) > 0.8

    def test_labels_of_noise_teach_nothing(self) -> None:
        assert train(images(64, contrast=0.0), images(200, 2, 99, contrast=0.0)).last == pytest.approx(0.5, abs=0.12)

    def test_a_seed_gives_the_same_training_and_another_seed_another(self) -> None:
        full = {"crop_scale": 0.5, "flip": True, "cutmix": 0.5, "jitter": 0.4, "lighting": 0.1, "patches": 2}
        hard = images(40, contrast=6.0), images(200, 2, 99, contrast=6.0)
        one, same, other = (train(*hard, seed=s, **full) for s in (0, 0, 1))
        assert one == same and one != other

    def test_the_global_seed_plays_no_part(self) -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        one = train(images(40, contrast=6.0))
        torch.manual_seed(2)
        np.random.seed(2)
        assert train(images(40, contrast=6.0)) == one

    @pytest.mark.parametrize("evaluations", [1, 2, 5])
    def test_the_curve_covers_the_budget(self, evaluations: int) -> None:
        score = train(images(32), evaluations=evaluations, visits=160, batch=16)
        assert len(score.curve) == evaluations and score.curve[-1] == (160, score.last)
        assert [v for v, _ in score.curve] == sorted({v for v, _ in score.curve})
        assert score.best == max(a for _, a in score.curve) >= score.last
        assert len(score.per_class) == 2 and score.last == pytest.approx(np.mean(score.per_class), abs=1e-5)
        assert [v for v, _ in score.loss] == [v for v, _ in score.curve] and score.loss[-1][1] <= score.loss[0][1]

    def test_a_budget_below_a_batch_is_one_step(self) -> None:
        score = train(images(4), visits=1, batch=16, evaluations=5)
        assert len(score.curve) == 1 and score.curve[0][0] == 1

    def test_a_batch_is_at_most_the_set(self) -> None:
        assert train(images(6), batch=64, visits=36) == train(images(6), batch=6, visits=36)

    def test_the_first_loss_is_the_mean_over_the_steps_before_the_test(self) -> None:
        """A rate of almost nothing: the loss stays that of the untrained network, about log 2."""
        score = train(images(32), visits=96, batch=16, evaluations=2, lr=1e-9)
        assert [v for v, _ in score.loss] == [48, 96]
        assert score.loss[0][1] == pytest.approx(np.log(2), abs=0.15)

    def test_a_loss_that_is_not_finite_is_told(self) -> None:
        with pytest.raises(StageFailed, match=r"the loss of convnet \(seed 3\) is not finite by step \d+; lower") as e:
            train(images(32), seed=3, lr=100.0, visits=16000)
        assert "\n" not in str(e.value)

    def test_a_sample_of_weight_0_has_no_influence(self) -> None:
        """Its pixels may be anything: the other images alone decide."""
        data = images(32)
        weights = torch.ones(32)
        weights[::5] = 0
        spoiled = data.pixels.clone()
        spoiled[::5] = torch.randint(0, 256, spoiled[::5].shape, dtype=torch.uint8)
        assert seen(ImageSet(data.pixels, data.labels, weights)) == seen(ImageSet(spoiled, data.labels, weights))
        assert seen(data) != seen(ImageSet(spoiled, data.labels, torch.ones(32)))

    def test_weights_scale_the_gradient(self) -> None:
        """Twice the weight with half the learning rate is the same plain SGD."""
        data = images(32)
        plain = {"momentum": 0.0, "weight_decay": 0.0, "visits": 160}
        heavy = ImageSet(data.pixels, data.labels, torch.full((32,), 2.0))
        assert seen(heavy, lr=0.025, **plain) == pytest.approx(seen(data, lr=0.05, **plain), rel=1e-3)
        assert seen(heavy, lr=0.05, **plain) != pytest.approx(seen(data, lr=0.05, **plain), rel=1e-3)


def seen(data: ImageSet, **more: Any) -> list[float]:
    """A fingerprint of the trained network: its logits for one grey image."""
    kept: list[nn.Module] = []

    def build(classes: int, size: int, width: int) -> nn.Module:
        kept.append(registry.get("student", "convnet")(classes, size, width))
        return kept[-1]

    registry._entries["student"]["kept"] = build
    try:
        train_student(Student("kept", 8, 2, 0), recipe(evaluations=1, **more), data, images(8, 2, 99), CPU)
    finally:
        del registry._entries["student"]["kept"]
    with torch.no_grad():
        return [round(v, 6) for v in kept[0](torch.linspace(-1, 1, 3 * SIZE * SIZE).view(1, 3, SIZE, SIZE))[0].tolist()]


class TestScore:
    class Says(nn.Module):
        """A network that answers with the brightest of the first pixels of a row."""

        def __init__(self, classes: int) -> None:
            super().__init__()
            self.classes = classes

        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0, 0, : self.classes]

    @staticmethod
    def answering(answers: list[int], labels: list[int], size: int) -> ImageSet:
        pixels = torch.zeros(len(labels), 3, size, size, dtype=torch.uint8)
        pixels[torch.arange(len(labels)), 0, 0, answers] = 255
        return ImageSet(pixels, torch.tensor(labels), torch.ones(len(labels)))

    def test_shares_and_confusion(self) -> None:
        data = self.answering([0, 0, 1, 2, 2, 2] * 100, [0, 1, 1, 2, 2, 0] * 100, SIZE)
        score = examine(self.Says(4), data, 4)
        assert score.per_class.tolist() == [0.5, 0.5, 1.0, 0.0] and score.accuracy == 4 / 6
        assert score.confusion.tolist() == [[100, 0, 100, 0], [100, 100, 0, 0], [0, 0, 200, 0], [0, 0, 0, 0]]

    def test_top5_counts_for_more_than_ten_classes(self) -> None:
        """One of the five brightest: the answer itself, and ties in order."""
        data = self.answering([3, 7, 9, 10], [3, 8, 9, 0], 16)
        data.pixels[1, 0, 0, 8] = 200
        assert examine(self.Says(11), data, 11).top5 >= 3 and examine(self.Says(10), data, 10).top5 == 0

    def test_answers_are_kept_a_bit_an_image_class_by_class(self) -> None:
        """Each class in the order of the test images, whatever order the labels come in and however many batches."""
        answers, labels = [0, 0, 1, 2, 2, 2, 0] * 100, [0, 1, 1, 2, 0, 2, 0] * 100
        score = examine(self.Says(3), self.answering(answers, labels, SIZE), 3)
        expected = [[a == c for a, y in zip(answers, labels, strict=True) if y == c] for c in range(3)]
        assert [bits.tolist() for bits in unpacked(packed(score.right.numpy()), [300, 200, 200])] == expected
        assert len(packed(score.right.numpy())) == 4 * -(-88 // 3), "700 bits in base64"

    def test_a_training_keeps_its_answers_and_the_mean_over_classes(self) -> None:
        score = train(images(48, 3), images(90, 3, 99), classes=3, visits=480)
        kept = score.answers()
        assert kept is not None and [len(bits) for bits in kept] == score.tested == [30, 30, 30]
        assert [float(bits.mean()) for bits in kept] == pytest.approx(score.per_class, abs=1e-6)
        assert sum(int(bits.sum()) for bits in kept) / 90 == score.last
        assert score.balanced == pytest.approx(np.mean(score.per_class))

    def test_what_an_older_version_committed_is_read_without_answers(self) -> None:
        score = train(images(16), visits=64)
        older = {k: v for k, v in json.loads(json.dumps(score.tree())).items() if k not in ("tested", "right")}
        reread = Score.of(older)
        assert reread.answers() is None and replace(reread, tested=score.tested, right=score.right) == score
        assert reread.balanced == pytest.approx(np.mean(score.per_class))
        with pytest.raises(KeyError):
            Score.of({k: v for k, v in older.items() if k != "last"})

    def test_a_constant_student_is_right_on_one_class(self) -> None:
        data = self.answering([1] * 40, [0] * 10 + [1] * 30, SIZE)
        score = examine(self.Says(2), data, 2)
        assert score.accuracy == 0.75 and score.per_class.tolist() == [0.0, 1.0]

    def test_a_score_survives_json(self) -> None:
        score = train(images(16), visits=64)
        assert Score.of(json.loads(json.dumps(score.tree()))) == score
        assert score.top5_last is None and np.sum(score.confusion) == 60
        assert np.trace(score.confusion) / 60 == score.last
