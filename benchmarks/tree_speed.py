"""A class's tree against scikit-learn's BisectingKMeans: CPU time and SSE, both in one run on one thread.

    python benchmarks/tree_speed.py [--points 1300] [--dim 4096] [--leaves 50] [--classes 3] [--restarts 10]

Draws float16 classes of overlapping clouds, as latents are, and splits them by the same rule (most SSE) from the same
number of k-means++ starts. scikit-learn gets float32. The k-means of the other methods is timed beside them. Fails if
the tree is less than 5 times as fast, or its SSE more than 1 % above.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from sklearn.cluster import BisectingKMeans
from threadpoolctl import threadpool_limits

from raydistill.clustering.divisive import grow
from raydistill.clustering.kmeans import kmeans

T = TypeVar("T")


def latents(points: int, dim: int, seed: int) -> np.ndarray:
    """Forty clouds (N, D) float16 whose centres are nearer each other than their points."""
    rng = np.random.default_rng(seed)
    centres = 0.4 * rng.standard_normal((40, dim))
    return (centres[rng.integers(40, size=points)] + rng.standard_normal((points, dim))).astype(np.float16)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--points", type=int, default=1300)
    p.add_argument("--dim", type=int, default=4096)
    p.add_argument("--leaves", type=int, default=50)
    p.add_argument("--classes", type=int, default=3)
    p.add_argument("--restarts", type=int, default=10)
    args = p.parse_args()
    print("| class | tree, s | scikit-learn, s | times as fast | SSE, ratio | 4x the leaves, s | k-means, s |")
    print("|---|---|---|---|---|---|---|")
    speed, sse = [], []
    with threadpool_limits(1):
        grow(latents(64, args.dim, 99), 4)  # loads what is loaded once
        for seed in range(args.classes):
            x = latents(args.points, args.dim, seed)
            mine, seconds = timed(lambda x=x, seed=seed: grow(x, args.leaves, restarts=args.restarts, key=(seed,)))
            single = x.astype(np.float32)
            peer = BisectingKMeans(
                args.leaves,
                n_init=args.restarts,
                init="k-means++",
                bisecting_strategy="biggest_inertia",
                random_state=seed,
            )
            theirs, peers = timed(lambda peer=peer, single=single: peer.fit(single).inertia_)
            _, more = timed(lambda x=x, seed=seed: grow(x, 4 * args.leaves, restarts=args.restarts, key=(seed,)))
            _, flat = timed(lambda single=single, seed=seed: kmeans(single, args.leaves, 100, 3, (seed,)))
            speed.append(peers / seconds)
            sse.append(mine.sse[mine.leaves].sum() / theirs)
            row = f"{seconds:.2f} | {peers:.2f} | {speed[-1]:.1f} | {sse[-1]:.4f} | {more:.2f} | {flat:.2f}"
            print(f"| {seed} | {row} |", flush=True)
    print(f"\n{np.median(speed):.1f} times as fast, SSE x {np.mean(sse):.4f}")
    return 0 if np.median(speed) >= 5 and np.mean(sse) <= 1.01 else 1


if __name__ == "__main__":
    sys.exit(main())
