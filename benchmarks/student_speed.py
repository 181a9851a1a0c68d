"""Training students here, and in a plain DataLoader loop as the released scripts have it: time and accuracy.

    python benchmarks/student_speed.py --trainings 4 --cores 2 -- evaluate.protocol.visits=20000

Both train the same student by the same recipe on the same images for the same visits, as many times as asked, on the
same cores. The plain loop is IDC's, with which MGD3 and ManifoldGD train: images cached in memory as PIL and
transformed one by one in a Dataset (to a tensor, crop, flip, jitter, lighting, normalisation), CutMix on the batch,
one training after the other; test images go through a Dataset as well. It is given the best of no loader processes
and one a core, torch on one core and on all. Here each core has a training of its own, in the environment that Ray
Train's workers get (`stages.runtime.WORKER_ENV`: one thread, and freed memory is kept), first as evaluate.dtype says
and then in bfloat16. CPU seconds are of all processes: what counts on a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
import torch.nn.functional as F
from measure import RESULTS, machine, save, table
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from raydistill.config import Config, load
from raydistill.distributed.runtime import WORKER_ENV
from raydistill.evaluation import colour
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Recipe, describe, students_of
from raydistill.evaluation.students.pooling import ReluAvgPool
from raydistill.evaluation.train import Student, train_student
from raydistill.models.device import mixed
from raydistill.report.text import spread
from raydistill.sources.base import open_splits
from raydistill.stages.evaluation.image_sets import real_images
from raydistill.stages.evaluation.trainings import recipe as recipe_of

CPU = torch.device("cpu")


# ---- the plain loop --------------------------------------------------------------------------------------------------


class Pictures(Dataset):
    """PIL images in memory; every access transforms one."""

    def __init__(self, images: ImageSet, recipe: Recipe | None) -> None:
        self.pictures = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in images.pixels]
        self.labels, self.recipe = images.labels.tolist(), recipe

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x = torch.from_numpy(np.array(self.pictures[i])).permute(2, 0, 1).float().div(255)
        if self.recipe is not None:
            x = transform(x, self.recipe)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in colour.STATISTICS["imagenet"])
        return (x - mean) / std, self.labels[i]


def transform(x: Tensor, r: Recipe) -> Tensor:
    """Random resized crop, flip, colour jitter in random order, PCA lighting: x (3, S, S) in [0, 1]."""
    size = x.shape[-1]
    if r.crop_scale < 1:
        top, left, h, w = box(size, r.crop_scale)
        x = x[:, top : top + h, left : left + w]
        x = F.interpolate(x[None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    if r.flip and random.random() < 0.5:
        x = x.flip(2)
    if r.jitter:
        steps = [brightness, contrast, saturation]
        random.shuffle(steps)
        for step in steps:
            x = step(x, random.uniform(-r.jitter, r.jitter))
    if r.lighting:
        alpha = torch.randn(3) * r.lighting
        x = x + (torch.tensor(colour.EIGENVECTORS) * alpha * torch.tensor(colour.EIGENVALUES)).sum(1).view(3, 1, 1)
    return x


def box(size: int, scale: float) -> tuple[int, int, int, int]:
    for _ in range(10):
        area, ratio = size**2 * random.uniform(scale, 1), np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= size and 0 < h <= size:
            return random.randint(0, size - h), random.randint(0, size - w), h, w
    return 0, 0, size, size


def grey(x: Tensor) -> Tensor:
    return (0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]).expand(3, -1, -1)


def brightness(x: Tensor, alpha: float) -> Tensor:
    return torch.lerp(x, torch.zeros_like(x), alpha)


def contrast(x: Tensor, alpha: float) -> Tensor:
    return torch.lerp(x, grey(x).mean().expand_as(x), alpha)


def saturation(x: Tensor, alpha: float) -> Tensor:
    return torch.lerp(x, grey(x), alpha)


def released(net: nn.Module) -> nn.Module:
    """The same network with torch's own ReLU and average pooling, as every released ConvNet has them."""
    for name, child in net.named_children():
        if isinstance(child, ReluAvgPool):
            setattr(net, name, nn.Sequential(nn.ReLU(inplace=True), nn.AvgPool2d(2)))
        else:
            released(child)
    return net


def plain(student: Student, r: Recipe, train: ImageSet, test: ImageSet, workers: int) -> float:
    """One training; the last top-1."""
    random.seed(student.seed)
    np.random.seed(student.seed)
    net = released(student.build(r.image_size))
    optimiser = torch.optim.SGD(net.parameters(), r.lr, r.momentum, weight_decay=r.weight_decay)
    epochs = r.visits // len(train)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2 * epochs // 3, 5 * epochs // 6], gamma=0.2)
    more: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(Pictures(train, r), r.batch, shuffle=True, **more)
    tests = DataLoader(Pictures(test, None), 250, **more)
    when = {round(epochs * (i + 1) / r.evaluations) for i in range(r.evaluations)}
    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        net.train()
        for x, y in loader:
            if np.random.rand() < r.cutmix:
                lam, size = np.random.beta(r.beta, r.beta), x.shape[-1]
                half, (cy, cx) = int(size * np.sqrt(1 - lam)) // 2, np.random.randint(size, size=2)
                y0, y1, x0, x1 = (int(np.clip(v, 0, size)) for v in (cy - half, cy + half, cx - half, cx + half))
                other = torch.randperm(len(x))
                x[:, :, y0:y1, x0:x1] = x[other, :, y0:y1, x0:x1]
                share = 1 - (y1 - y0) * (x1 - x0) / size**2
                out = net(x)
                value = share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[other])
            else:
                value = F.cross_entropy(net(x), y)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        scheduler.step()
        if epoch in when:
            net.eval()
            with torch.no_grad():
                right = sum(int((net(x).argmax(1) == y).sum()) for x, y in tests)
            accuracy = right / len(test)
    return accuracy


# ---- both, timed -----------------------------------------------------------------------------------------------------


def warm(_: int) -> None:
    torch.set_num_threads(1)
    time.sleep(1)  # so that every process takes one


def ours(job: tuple[Student, Recipe, ImageSet, ImageSet, str]) -> tuple[float, float]:
    """The last top-1, and the CPU seconds of one training."""
    torch.set_num_threads(1)
    start = time.process_time()
    student, recipe, train, test, dtype = job
    score, _ = train_student(student, recipe, train, test, CPU, arithmetic=mixed(dtype, CPU))
    return score.last, time.process_time() - start


def images_of(config: Config) -> tuple[ImageSet, ImageSet, int]:
    """`ipc` real images a class, spread evenly over it, to train on; all test images; the number of classes."""
    splits = open_splits(config.source)
    labels, keep = splits.train.labels, np.zeros(len(splits.train), bool)
    for c in range(len(splits.train.classes)):
        mine = np.flatnonzero(labels == c)
        keep[mine[np.linspace(0, len(mine) - 1, config.ipc).astype(int)]] = True
    size = config.evaluate.protocol.image_size
    train, test = (real_images(config.source, s, size).images for s in (splits.train.take(keep), splits.test))
    return train, test, len(splits.train.classes)


def cpu_seconds() -> float:
    return sum(
        u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def show(name: str, wall: float, cpu: float, accuracies: list[float], visits: int) -> list[str]:
    """Prints one side, and returns its row of the table."""
    mean, std = statistics.mean(accuracies), statistics.stdev(accuracies) if len(accuracies) > 1 else None
    total = visits * len(accuracies)
    row = [name, f"{wall:.1f}", f"{cpu:.1f}", f"{1000 * wall / total:.3f}", f"{1000 * cpu / total:.3f}",
           spread(mean, std)]  # fmt: skip
    print(*row, sep=" | ", flush=True)
    return row


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="quickstart")
    p.add_argument("--trainings", type=int, default=4)
    p.add_argument("--cores", type=int, default=2)
    p.add_argument("--out", type=Path, default=RESULTS / "student.json")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE, after --")
    args = p.parse_args()
    config = load(args.config, args.overrides)
    train, test, classes = images_of(config)
    name = students_of(config.evaluate)[0]
    r = recipe_of(config, classes, name)
    students = [Student(name, config.evaluate.width, classes, seed) for seed in range(args.trainings)]
    print(f"{name} of width {config.evaluate.width} at {r.image_size} px on {len(train)} images: {describe(r)}; "
          f"{r.evaluations} tests on {len(test)}; {args.trainings} trainings on {args.cores} cores")  # fmt: skip

    before, rows, took = machine(), [], {}
    for at in dict.fromkeys(itertools.product((0, args.cores), (1, args.cores))):
        workers, threads = at
        torch.set_num_threads(threads)
        wall, cpu = time.monotonic(), cpu_seconds()
        accuracies = [plain(s, r, train, test, workers) for s in students]
        took[at] = (time.monotonic() - wall, cpu_seconds() - cpu)
        rows.append(show(f"plain, {workers} loaders, {threads} threads", *took[at], accuracies, r.visits))
    os.environ.update(WORKER_ENV)  # of the processes that start now
    with ProcessPoolExecutor(args.cores, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(warm, range(args.cores), chunksize=1))  # processes and imports: Ray's workers pay once as well
        best, fewest = min(took.values()), min(c for _, c in took.values())
        verdicts = []
        for dtype in dict.fromkeys((config.evaluate.dtype, "bfloat16")):
            wall = time.monotonic()
            results = list(pool.map(ours, [(s, r, train, test, dtype) for s in students], chunksize=1))
            wall = time.monotonic() - wall
            accuracies, cpu = [a for a, _ in results], sum(c for _, c in results)
            rows.append(show(f"raydistill, a training a core, {dtype}", wall, cpu, accuracies, r.visits))
            gain = f"{best[0] / wall:.1f} times faster by the clock, {fewest / cpu:.1f} by CPU seconds"
            verdicts.append(f"{dtype}: {gain}")
    verdict = "; ".join(verdicts)
    head = [f"{args.trainings} trainings, {r.visits} visits each, {r.image_size} px", "wall, s", "CPU, s",
            "ms wall an image", "ms CPU an image", "last top-1, %"]  # fmt: skip
    save(args.out, {"machine": before, "rows": rows, "recipe": describe(r), "verdict": verdict},
         f"{table(head, rows)}\n\n{verdict}")  # fmt: skip


if __name__ == "__main__":
    main()
