"""One training of one student by a recipe: tested at even distances; best and last are reported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raydistill import registry
from raydistill.errors import StageFailed
from raydistill.evaluation.augment import Augment
from raydistill.evaluation.batch_statistics import spare_single_values
from raydistill.evaluation.cartography import Certainty, ends_of_epochs, of_set
from raydistill.evaluation.cutmix import Mix, cutmix
from raydistill.evaluation.drawing import by_chance, even_chances, in_proportion
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.optimiser import optimiser, set_rate
from raydistill.evaluation.recipe import Recipe
from raydistill.evaluation.score import CONFUSION_CLASSES, PLAIN, TOP5_CLASSES, Answers, Score, examine, packed
from raydistill.evaluation.stored import StoredTargets
from raydistill.evaluation.targets import Hard, Targets, loss
from raydistill.seeding import generator


@dataclass(frozen=True)
class Student:
    """Which network, and the seed of its weights and of everything drawn in its training."""

    name: str
    width: int
    classes: int
    seed: int

    def build(self, image_size: int) -> nn.Module:
        """A new network; its weights depend on the seed alone."""
        torch.manual_seed(_torch_seed("student.init", self.seed))
        return registry.get("student", self.name)(self.classes, image_size, self.width)


class Keeper(Protocol):
    """Where an interrupted training finds its state."""

    def load(self) -> dict[str, Any] | None: ...

    def save(self, step: int, state: dict[str, Any]) -> None: ...


@dataclass
class TrainingProgress:
    """What has been found out so far."""

    step: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)
    top5: list[float] = field(default_factory=list)
    loss: list[tuple[int, float]] = field(default_factory=list)
    certainty: dict[str, Any] | None = None  # of the set itself: a Certainty as a dict, if it is mapped from the start
    latest: Answers | None = None

    def map(self, truth: Tensor) -> None:
        """What an epoch came to on the set itself (cartography.of_set)."""
        if self.certainty is not None:
            sums = Certainty(**self.certainty)
            sums.add(truth)
            self.certainty = vars(sums)

    def add(self, step: int, seen: int, mean_loss: float, answers: Answers) -> None:
        self.step, self.latest = step, answers
        self.curve.append((seen, answers.accuracy))
        self.top5.append(answers.top5 / answers.images)
        self.loss.append((seen, round(mean_loss, 6)))

    def score(self) -> Score:
        assert self.latest is not None
        counts = self.latest.confusion
        mean, spread = (None, None) if self.certainty is None else Certainty(**self.certainty).mean_and_spread()
        return Score(
            best=max(a for _, a in self.curve),
            last=self.curve[-1][1],
            curve=self.curve,
            per_class=[round(float(v), 6) for v in self.latest.per_class],
            loss=self.loss,
            confusion=counts.tolist() if len(counts) <= CONFUSION_CLASSES else None,
            top5_best=max(self.top5) if len(counts) > TOP5_CLASSES else None,
            top5_last=self.top5[-1] if len(counts) > TOP5_CLASSES else None,
            tested=counts.sum(1).tolist(),
            right=packed(self.latest.right.numpy()),
            truth_mean=mean,
            truth_spread=spread,
        )


def train_student(
    student: Student,
    recipe: Recipe,
    train: ImageSet,
    test_on: ImageSet,
    device: torch.device,
    targets: Targets | None = None,
    keeper: Keeper | None = None,
    arithmetic: AbstractContextManager[Any] = PLAIN,
    balanced: bool = False,
) -> tuple[Score, nn.Module]:
    """Trains for `recipe.visits` images. Returns the score and the trained network. Otherwise as `advance`."""
    progress, net = advance(student, recipe, train, test_on, device, targets, keeper, arithmetic, balanced)
    return progress.score(), net


def advance(
    student: Student,
    recipe: Recipe,
    train: ImageSet,
    test_on: ImageSet,
    device: torch.device,
    targets: Targets | None = None,
    keeper: Keeper | None = None,
    arithmetic: AbstractContextManager[Any] = PLAIN,
    balanced: bool = False,
    tests: int | None = None,
) -> tuple[TrainingProgress, nn.Module]:
    """Trains to the end, or until so many tests are done, from where `keeper` has it; `targets` None = the hard labels.

    The network computes in `arithmetic`, such as an autocast to bfloat16; losses and the optimiser do in float32. With
    `balanced` all classes are drawn equally often. The loss is the mean of w_i l_i over a batch, and CutMix mixes
    weights as it mixes images. Deterministic in its arguments for one thread count and kind of device: every draw is a
    function of the seed and of the step or the epoch, so a training that continues from what `keeper` holds ends with
    the same bits as an undisturbed one.
    Raises StageFailed on a loss that is not finite.
    """
    net = student.build(recipe.image_size).to(device)
    opt = optimiser(net, recipe)
    train, test_on = train.to(device), test_on.to(device)
    targets = targets or Hard(train.labels, student.classes)
    augment = Augment(train, recipe, student.seed, targets.views if isinstance(targets, StoredTargets) else None)
    steps = count_steps(len(train), recipe.batch, recipe.visits)
    exams = exam_steps(recipe, steps)
    mapped, has_statistics = ends_of_epochs(len(train), recipe), spare_single_values(net)
    progress = _continue(net, opt, keeper, len(train) if mapped else 0)
    if tests is not None and len(progress.curve) >= tests:
        return progress, net
    summed, since = torch.zeros((), device=device), progress.step
    weights, chances = _drawn_by(train, recipe, balanced)
    order = batches(len(train), recipe, student.seed, progress.step, chances)
    for step, (epoch, rows, seen) in enumerate(order, progress.step + 1):
        torch.manual_seed(_torch_seed("student.dropout", student.seed, step))
        set_rate(opt, recipe, seen)
        chance = generator("student.cutmix", student.seed, step)
        x, target, mix = _mixed(augment(epoch, rows, step), targets, recipe, chance, epoch, rows)
        weight = mix.of(weights[torch.from_numpy(rows).to(device)])
        logits = _logits(net, x, recipe.bn_pass and has_statistics, arithmetic)
        value = (loss(logits.float(), target, recipe.soft, recipe.temperature) * weight).mean()
        summed += _descend(opt, value)
        if step in mapped:
            progress.map(of_set(net, train, arithmetic, recipe.statistics))
        if step in exams or (step - since) % 50 == 0:
            _check(summed, student, step)
        if step in exams:
            answers = examine(net, test_on, student.classes, arithmetic, recipe.statistics)
            progress.add(step, seen + len(rows), float(summed) / (step - since), answers)
            summed.zero_()
            since = step
            if keeper is not None and step < steps:
                keeper.save(step, _state(net, opt, progress))
            if len(progress.curve) == tests:
                break
    return progress, net


def _mixed(
    x: Tensor, targets: Targets, recipe: Recipe, chance: np.random.Generator, epoch: int, rows: np.ndarray
) -> tuple[Tensor, Tensor, Mix]:
    """A batch (b, 3, s, s), mixed in place, with what it is said to be, before or after it is mixed."""
    target = None if targets.of_mixed else targets(x, epoch, rows)
    mix = cutmix(x, recipe.cutmix, recipe.beta, chance)
    return x, targets(x, epoch, rows) if target is None else mix.of(target), mix


def _logits(net: nn.Module, x: Tensor, twice: bool, arithmetic: AbstractContextManager[Any]) -> Tensor:
    """(b, classes); if `twice`, after another pass that moves statistics alone."""
    if twice:
        with torch.no_grad(), arithmetic:
            net(x)
    with arithmetic:
        return net(x)


def _drawn_by(train: ImageSet, recipe: Recipe, balanced: bool) -> tuple[Tensor, np.ndarray | None]:
    """The weights of losses, and those by which images are drawn: None for permutations."""
    if balanced:
        return train.weights, even_chances(train.labels)
    return by_chance(train.weights) if recipe.weighting == "sampling" else (train.weights, None)


def _descend(opt: torch.optim.Optimizer, value: Tensor) -> Tensor:
    """A step down the gradient of a loss; the loss as it was."""
    opt.zero_grad(set_to_none=True)
    value.backward()
    opt.step()
    return value.detach()


def _check(summed: Tensor, student: Student, step: int) -> None:
    if not torch.isfinite(summed):
        raise StageFailed(
            f"evaluate: the loss of {student.name} (seed {student.seed}) is not finite by step {step}; "
            "lower evaluate.protocol.lr"
        )


def count_steps(n: int, batch: int, visits: int) -> int:
    """Batches in `visits` images of a set of n: an epoch's last batch holds what is left of it."""
    return visits // n * -(-n // batch) + -(-(visits % n) // batch)


def exam_steps(recipe: Recipe, steps: int) -> set[int]:
    """The steps after which the student is tested; the last one always."""
    first, count = recipe.tested_from, recipe.evaluations
    return {max(1, round(steps * (first + (1 - first) * (i + 1) / count))) for i in range(count)}


def batches(
    n: int, recipe: Recipe, seed: int, done: int = 0, weights: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray, int]]:
    """(epoch, rows (b,) int64, visits before) of every step after the first `done`.

    An epoch is a permutation; with weights (n,) one of n rows drawn in proportion to them.
    """
    a_epoch = -(-n // recipe.batch)
    epoch, skip = divmod(done, a_epoch)
    while epoch * n < recipe.visits:
        order = generator("student.order", seed, epoch).permutation(n)
        if weights is not None:
            order = in_proportion(weights, generator("student.drawn", seed, epoch))[order]
        order = order[: recipe.visits - epoch * n]
        for start in range(skip * recipe.batch, len(order), recipe.batch):
            yield epoch, order[start : start + recipe.batch], epoch * n + start
        epoch, skip = epoch + 1, 0


def _torch_seed(*key: object) -> int:
    return int(generator(*key).integers(2**62))


def _state(net: nn.Module, opt: torch.optim.Optimizer, progress: TrainingProgress) -> dict[str, Any]:
    return {
        "net": net.state_dict(),
        "optimiser": opt.state_dict(),
        "found": {
            k: v for k, v in vars(progress).items() if k != "latest"
        },  # the last step is a test, which has its own
    }


def _continue(net: nn.Module, opt: torch.optim.Optimizer, keeper: Keeper | None, mapped: int) -> TrainingProgress:
    """Puts what was kept into the network and the optimiser; a new beginning if there is nothing.

    `mapped` images are, from the beginning or not at all: states of older versions hold nothing of them.
    """
    state = keeper.load() if keeper is not None else None
    if state is None:
        return TrainingProgress(certainty=vars(Certainty.of(mapped)) if mapped else None)
    net.load_state_dict(state["net"])
    opt.load_state_dict(state["optimiser"])
    return TrainingProgress(**state["found"])
