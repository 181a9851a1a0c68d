"""The two k-means of raydistill against each other: faiss' on whole classes, Lloyd over chunks on split ones.

    python benchmarks/kmeans_speed.py [--repeat 5] [--k 10 50] [--sizes 1300x4096 500x1024] [--tasks 1 2]

Both get the same drawn class (float16, overlapping clouds, as latents are), iterations and number of k-means++ starts,
on one thread, as the cluster stage calls them; `--tasks 2` is two processes at once, as two tasks on two cores. The
sides take turns; times are CPU seconds, medians over the repeats; the ratio is the median of the pairs' ratios, with
their range. faiss has no way to work in pieces, so only Lloyd could do for both: the last line says whether it is
within 1.5 times of faiss everywhere.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from threadpoolctl import threadpool_limits
from tree_speed import latents

from raydistill.clustering.kmeans import Clusters, kmeans
from raydistill.clustering.lloyd import kmeans_in_chunks
from raydistill.clustering.points import Whole

ITERATIONS, STARTS = 100, 3  # of cluster.iterations and cluster.restarts
ENOUGH = 1.5  # times as slow as faiss: up to here chunks would do for every class
Side = tuple[float, float]  # CPU seconds, sum of squared distances


def in_memory(x: np.ndarray, k: int, seed: int) -> Clusters:
    return kmeans(x.astype(np.float32), k, ITERATIONS, STARTS, (seed,))


def in_chunks(x: np.ndarray, k: int, seed: int) -> Clusters:
    return kmeans_in_chunks(Whole(x), k, ITERATIONS, STARTS, (seed,))


def pair(points: int, dim: int, k: int, seed: int) -> tuple[Side, Side]:
    """Both sides on one class; which is first changes with the seed."""
    x = latents(points, dim, seed)
    sides: dict[Callable[[np.ndarray, int, int], Clusters], Side] = {}
    with threadpool_limits(1):
        for side in (in_memory, in_chunks) if seed % 2 else (in_chunks, in_memory):
            start = time.process_time()
            clusters = side(x, k, seed)
            sides[side] = (time.process_time() - start, float(clusters.sse.sum()))
    return sides[in_memory], sides[in_chunks]


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--repeat", type=int, default=5, help="pairs a task, each on another class")
    p.add_argument("--k", type=int, nargs="+", default=[10, 50], help="clusters")
    p.add_argument("--sizes", nargs="+", default=["1300x4096", "500x1024"], metavar="NxD", help="points x numbers")
    p.add_argument("--tasks", type=int, nargs="+", default=[1, 2], help="processes at once, each on one thread")
    args = p.parse_args(argv)
    print("| points | k | tasks | faiss, s | chunks, s | chunks / faiss | range | SSE, chunks / faiss |")
    print("|---|---|---|---|---|---|---|---|")
    slower = []
    for tasks in args.tasks:
        with ProcessPoolExecutor(tasks, mp_context=get_context("spawn")) as pool:
            list(pool.map(pair, [64] * tasks, [64] * tasks, [4] * tasks, range(tasks)))  # loads what is loaded once
            for size in args.sizes:
                points, dim = map(int, size.split("x"))
                for k in args.k:
                    count = args.repeat * tasks
                    pairs = list(pool.map(pair, [points] * count, [dim] * count, [k] * count, range(count)))
                    ratios = [b[0] / a[0] for a, b in pairs]
                    slower.append(statistics.median(ratios))
                    seconds = [statistics.median(side[0] for side in sides) for sides in zip(*pairs, strict=True)]
                    sse = statistics.mean(b[1] / a[1] for a, b in pairs)
                    print(
                        f"| {size} | {k} | {tasks} | {seconds[0]:.2f} | {seconds[1]:.2f} | {slower[-1]:.2f} "
                        f"| {min(ratios):.2f}-{max(ratios):.2f} | {sse:.4f} |",
                        flush=True,
                    )
    verdict = "one would do" if max(slower) <= ENOUGH else "both stay"
    print(f"\nchunks take {min(slower):.2f} to {max(slower):.2f} times the CPU time of faiss: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
