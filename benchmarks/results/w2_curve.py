"""Wasserstein-2 of the latents of a class to its atoms over IPC: before and after weighting, and how fast it falls.

    python benchmarks/results/w2_curve.py --config nette128 --ipc 1 2 5 10 20 50 --work runs/w2 \
        -- source.path=DIR vae.path=DIR

Encodes the training images as a run does (with artifact_dir=DIR what other runs have encoded is taken), then quantises
each class in this process, for each of --algorithms and --ipc. `equal` atoms have the mass 1/K, `sqrt` the roots of
the masses of their cells, `density` those masses: then W2 is the quantisation error. Over classes it is the root of the
mean square. The slope is that of log W2 (density) over log K by least squares; theory has K^(-1/d) where the latents
fill d dimensions, so that -1/slope is the dimension that they seem to have at these K. Beside it stands which share of
the atoms is nearest to a single image. An algorithm may have overrides of its own: --algorithms clvq,cluster.batch=100
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import figure
from measure import machine, save, table

from raydistill import api, entry, registry
from raydistill.clustering.points import Whole
from raydistill.config import Config, load
from raydistill.methods.weighting import weigh
from raydistill.metrics.sets import by_class, squared_distances
from raydistill.metrics.wasserstein import transport

MODES = ("equal", "sqrt", "density")
HERE = Path(__file__).resolve().parent


def of_class(x: np.ndarray, config: Config, algorithm: str, class_id: str) -> dict[str, float]:
    """W2 squared of x (N, D) to the atoms that an algorithm makes of it, by what they weigh, and which share of the
    atoms is nearest to one point alone."""
    clusters = registry.get("clustering", algorithm).of(config).cluster(Whole(x), class_id)
    cost = squared_distances(x.astype(np.float32), clusters.centroids.astype(np.float32)).astype(np.float64)
    masses = np.bincount(cost.argmin(axis=1), minlength=len(clusters.centroids))
    roots = weigh(np.maximum(masses, 1e-9), "sqrt", "sum")
    return {
        "equal": transport(cost, np.ones(len(masses))),
        "sqrt": transport(cost, roots),
        "density": float(cost.min(axis=1).mean()),
        "alone": float((masses == 1).mean()),
    }


def configured(algorithm: str, preset: str, overrides: Sequence[str]) -> tuple[str, Config]:
    """Name and configuration of NAME or NAME,KEY=VALUE,... of --algorithms."""
    name, *its = algorithm.split(",")
    return name, load(preset, [*overrides, *its])


def slope(ipc: Sequence[int], squares: Sequence[float]) -> float | None:
    """Of log W2 over log K; None where W2 reaches 0 or there is one K."""
    if len(ipc) < 2 or min(squares) <= 0:
        return None
    return float(np.polyfit(np.log(ipc), 0.5 * np.log(squares), 1)[0])


def measured(latents: api.Latents, config: Config, algorithm: str, ipc: Sequence[int]) -> dict[str, Any]:
    """squares: of each mode, W2 squared (K, classes); and the slopes of density."""
    x = latents.latents.reshape(len(latents.latents), -1)
    rows = by_class(latents.labels, len(latents.class_ids))
    squares: dict[str, list[list[float]]] = {mode: [] for mode in MODES}
    alone: list[float] = []
    for k in ipc:
        at_ipc = config.model_copy(update={"ipc": k})
        every = [of_class(x[r], at_ipc, algorithm, c) for r, c in zip(rows, latents.class_ids, strict=True)]
        for mode in MODES:
            squares[mode].append([distances[mode] for distances in every])
        alone.append(float(np.mean([distances["alone"] for distances in every])))
        print(f"{algorithm}, ipc {k}: done", file=sys.stderr, flush=True)
    error = np.array(squares["density"])
    return {
        "squares": squares,
        "alone": alone,
        "slope": slope(ipc, error.mean(axis=1)),
        "slopes": {c: slope(ipc, column) for c, column in zip(latents.class_ids, error.T, strict=True)},
    }


def overall(curve: dict[str, Any], mode: str) -> np.ndarray:
    """W2 over classes for each K."""
    return np.sqrt(np.array(curve["squares"][mode]).mean(axis=1))


def markdown(ipc: Sequence[int], every: dict[str, dict[str, Any]], dim: int) -> str:
    """W2 over K, then the slopes, overall and of each class."""
    rows = []
    for algorithm, curve in every.items():
        equal, roots, density = (overall(curve, mode) for mode in MODES)
        for k, e, s, d, lone in zip(ipc, equal, roots, density, curve["alone"], strict=True):
            rows.append(
                [
                    algorithm,
                    str(k),
                    f"{e:.4g}",
                    f"{s:.4g}",
                    f"{d:.4g}",
                    f"{100 * max(0.0, 1 - d / e) if e > 0 else 0:.1f}",
                    f"{100 * lone:.0f}",
                ]
            )
    head = ["atoms", "IPC", "W2, equal", "W2, sqrt", "W2, density", "density lower by, %", "cells of one image, %"]
    slopes = []
    for algorithm, curve in every.items():
        for name, value in {"all": curve["slope"], **curve["slopes"]}.items():
            words = ["–", "–"] if value is None else [f"{value:.4f}", f"{-1 / value:.0f}"]
            slopes.append([algorithm, name, *words, f"{-1 / dim:.5f}"])
    below = ["atoms", "class", "slope of log W2", "dimension that it tells", f"-1/d, d = {dim}"]
    return table(head, rows) + (f"\n\n{table(below, slopes)}" if len(ipc) > 1 else "")


def draw(path: Path, ipc: Sequence[int], every: dict[str, dict[str, Any]], dim: int) -> None:
    """Log-log: a panel an algorithm, a line a mode, and K^(-1/d) through the first point."""
    sheet, panels = figure.panels(1, len(every))
    for axes, (algorithm, curve) in zip(panels[0], every.items(), strict=True):
        for mode, colour in zip(MODES, figure.COLOURS, strict=False):
            axes.plot(ipc, overall(curve, mode), color=colour, marker="o", markersize=3, label=mode)
        first = overall(curve, "density")[0]
        axes.plot(ipc, first * (np.array(ipc) / ipc[0]) ** (-1 / dim), "--", color=figure.COLOURS[-1], label="K^(-1/d)")
        figure.plain_numbers(axes)
        figure.whole_numbers(axes, ipc)
        axes.set(title=algorithm, xlabel="images per class", ylabel="W2 in latent space")
    lowest, highest = zip(*(axes.get_ylim() for axes in panels[0]), strict=True)
    for axes in panels[0]:
        axes.set_ylim(min(lowest), max(highest))
    panels[0][-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.save(sheet, path)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="nette128", help="preset or YAML file")
    p.add_argument("--ipc", nargs="+", type=int, default=[1, 2, 5, 10, 20, 50])
    p.add_argument("--algorithms", nargs="+", default=["clvq", "minibatch", "kmeans"], help="clusterings, not trees")
    p.add_argument("--work", type=Path, default=Path("runs/w2"), help="where the latents go")
    p.add_argument("--out", type=Path, help="default benchmarks/results/w2-CONFIG")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE, after --")
    args = p.parse_args(argv)
    before, ipc = machine(), sorted(set(args.ipc))
    config = load(args.config, [*args.overrides, f"run_dir={args.work.resolve()}"])
    latents = api.run(config, until="encode").latents()
    dim = int(np.prod(latents.latents.shape[1:]))
    every = {}
    for algorithm in args.algorithms:
        name, its_config = configured(algorithm, args.config, args.overrides)
        every[algorithm] = measured(latents, its_config, name, ipc)
    out = args.out or HERE / f"w2-{Path(args.config).stem}"
    body = {"machine": before, "ipc": ipc, "dim": dim, "images": len(latents.labels), "algorithms": every}
    save(out / "curve.json", json.loads(json.dumps(body)), markdown(ipc, every, dim))
    if len(ipc) > 1:
        draw(out / "plot.svg", ipc, every, dim)
    return 0


if __name__ == "__main__":
    sys.exit(entry.program(main))
