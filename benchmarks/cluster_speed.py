"""Speed of clustering: the clusterers of raydistill against scikit-learn's KMeans on the same points.

    python benchmarks/cluster_speed.py --images IMAGENETTE --vae TAESD --generator NETTE128_DIT --repeat 3

Points are the latents of each class, as the cluster stage sees them (500 x 1024), and random ones of the size of a
class of ImageNet (1300 x 4096). One thread, the same number of starts, the same limit of iterations; what the starts
are is each side's own: scikit-learn draws several candidates for each further centre and keeps the best. Time counts
only at equal quality, so the ratio of the sums of squared distances (SSE) stands beside that of the times. The sides
take turns.

A further clusterer is one more entry in CLUSTERERS.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow.parquet as pq
from measure import RESULTS, inputs, job, machine, only, save, table, watch
from threadpoolctl import threadpool_limits

from raydistill.clustering.kmeans import kmeans
from raydistill.store import schemas

ITERATIONS, STARTS = 100, 3  # of cluster.iterations and cluster.restarts
Clusterer = Callable[[np.ndarray, int, int], float]  # points (N, D) float32, k, seed -> sum of squared distances
REFERENCE = "scikit-learn"


def ours(x: np.ndarray, k: int, seed: int) -> float:
    return float(kmeans(x, k, ITERATIONS, STARTS, (seed, "benchmark")).sse.sum())


def scikit_learn(x: np.ndarray, k: int, seed: int) -> float:
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters, where it is so
        model = KMeans(k, init="k-means++", n_init=STARTS, max_iter=ITERATIONS, random_state=seed).fit(x)
    return float(np.square(x - model.cluster_centers_[model.labels_]).sum(dtype=np.float64))


CLUSTERERS: dict[str, Clusterer] = {REFERENCE: scikit_learn, "raydistill k-means": ours}


def latents(args: argparse.Namespace) -> list[np.ndarray]:
    """The latents of each class, (N, D) float32, from a run that is encoded and grouped once and kept in --work."""
    command = job(
        "cluster", "--config", "nette128", *inputs(source=args.images, vae=args.vae, generator=args.generator),
        f"run_dir={args.work}/run", f"artifact_dir={args.work}/artifacts", "evaluate.baselines=[]"
    )  # fmt: skip
    watch(command, args.work / "prepare.log")
    artifact = only(args.work / "artifacts" / "classes")
    classes = []
    for file in sorted((artifact / "data").glob("*.parquet")):
        rows = pq.read_table(file)
        label = rows["class_index"].to_numpy()
        points = schemas.tensor_numpy(rows["latent"]).reshape(len(rows), -1).astype(np.float32)
        classes += [points[label == c] for c in np.unique(label)]
    return classes


def synthetic(n: int, dim: int, modes: int = 80) -> np.ndarray:
    """A class of ImageNet's size: points around `modes` centres, about as far from them as those lie apart."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((modes, dim), dtype=np.float32)
    return centres[rng.integers(modes, size=n)] + rng.standard_normal((n, dim), dtype=np.float32)


def compare(sets: list[np.ndarray], k: int, repeat: int) -> dict[str, dict[str, float]]:
    """Per clusterer: CPU and wall milliseconds a set (medians over repeats, mean over sets) and SSE / reference's."""
    spent: dict[str, list[list[tuple[float, float, float]]]] = {name: [] for name in CLUSTERERS}
    for x in sets:
        runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CLUSTERERS}
        for seed in range(repeat):
            for name, cluster in CLUSTERERS.items():
                wall, cpu = time.perf_counter(), time.process_time()
                sse = cluster(x, k, seed)
                runs[name].append((time.perf_counter() - wall, time.process_time() - cpu, sse))
        for name, r in runs.items():
            spent[name].append(r)
    base = [statistics.mean(r[2] for r in runs) for runs in spent[REFERENCE]]
    return {
        name: {
            "wall_ms": 1e3 * statistics.mean(statistics.median(r[0] for r in runs) for runs in per),
            "cpu_ms": 1e3 * statistics.mean(statistics.median(r[1] for r in runs) for runs in per),
            "sse": statistics.mean(statistics.mean(r[2] for r in runs) / b for runs, b in zip(per, base, strict=True)),
            "worst_sse": max(statistics.mean(r[2] for r in runs) / b for runs, b in zip(per, base, strict=True)),
        }
        for name, per in spent.items()
    }


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", type=Path, help="Parquet set of ImageNette JPEGs; without it only random points")
    p.add_argument("--vae", type=Path, help="TAESD, a diffusers directory")
    p.add_argument("--generator", type=Path, help="a DiT for 16x16x4 latents, with training.json")
    p.add_argument("--work", type=Path, default=Path("runs/speed"), help="encoded images are kept there")
    p.add_argument("--repeat", type=int, default=3, help="times each side is measured on each set, with another seed")
    p.add_argument("--k", type=int, nargs="+", default=[10, 50], help="clusters")
    p.add_argument("--points", type=int, nargs=2, default=[1300, 4096], metavar=("N", "D"), help="the random set")
    p.add_argument("--out", type=Path, default=RESULTS / "cluster.json")
    args = p.parse_args(argv)
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    before = machine()
    sets = {"latents of ImageNette": latents(args)} if args.images else {}
    sets["random"] = [synthetic(*args.points)]
    results = {}
    with threadpool_limits(1):
        for name, points in sets.items():
            n, d = points[0].shape
            for k in args.k:
                results[f"{name}, {n} x {d}, k = {k}"] = compare(points, k, args.repeat)
    rows = []
    for name, sides in results.items():
        base = sides[REFERENCE]
        for side, m in sides.items():
            rows.append([name, side, f"{m['wall_ms']:.0f}", f"{m['cpu_ms']:.0f}", f"{base['cpu_ms'] / m['cpu_ms']:.1f}",
                         f"{m['sse']:.4f}", f"{m['worst_sse']:.4f}"])  # fmt: skip
    head = ["points, clusters", "clusterer", "wall ms a class", "CPU ms", "times as fast", "SSE ratio", "worst class"]
    body = {"machine": before, "results": results, "starts": STARTS, "iterations": ITERATIONS, "repeat": args.repeat}
    save(args.out, body, table(head, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
