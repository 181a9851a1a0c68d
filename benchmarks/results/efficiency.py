"""Few steps of a flow against many of diffusion: network calls, seconds, mode coverage and accuracy of each.

    python benchmarks/results/efficiency.py --config nette128 --flow FLOW --noise NOISE --ipc 10 --seeds 0 1 2 \
        --work runs/efficiency -- source.path=DIR vae.path=DIR

Rows: `pgfm N` by Euler's method at --calls network calls on the flow generator, `dit N` and `mgd3 N` at --steps of DDPM
on the noise generator; if asked for, `pgfm N on noise`, the noise generator taken as a flow (--noise-calls), and
`mgd3_ddim N` (--ddim-steps).
Run again after an interruption, it computes only what is missing; `--only ROW` computes one row; `--print` nothing.

Network calls are those that the sampler counted, an image; the doubled batch of classifier-free guidance is one call.
Costs are a cell of their own for each row (`--parts costs`), so that they are measured where nothing was done before:
give them an idle machine.

    s an image      the sample stage's own work in this process, warm: --repeat batches, their median
    sample, s       the whole stage at the first generation seed, with the start of its actors
    end to end, s   images to distilled set: encode, group and cluster, which all rows share, then plan and sample

Coverage (docs/metrics.md): share of the k-means modes of each class that have a synthetic image, M = IPC or M = 50;
`near` asks only whose nearest mode it is, the other also that it lies within the mode's 90th percentile radius.
Accuracies are mean and standard deviation over generation seeds (of trainings, where there is one generation seed).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import figure
import grids
from grids import (
    OVER,
    accuracies,
    accuracy,
    carry,
    compared,
    compute,
    diverged,
    first_batch,
    grid,
    markdown,
    metric,
    over,
    parser,
    spread,
    study,
    two_generators,
    with_cells,
    with_generators,
)

from raydistill import entry
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.results import costs as costs_kept
from raydistill.state import Results
from raydistill.tune.cells import Cell, Row, write
from raydistill.tune.kept import machine

REFERENCE = "mgd3"
SHARED = ("encode", "group", "cluster")
COVERAGES = ("mode_coverage_ipc_nearest", "mode_coverage_ipc", "mode_coverage_50_nearest", "mode_coverage_50")


def rows(args: argparse.Namespace) -> list[Row]:
    """Those of the grid. A row of a generator that is not given is none."""

    def row(name: str, method: str, sampler: str, steps: int, generator: Path | None) -> list[Row]:
        if generator is None:
            return []
        overrides = [f"method={method}", f"sampler.name={sampler}", f"sampler.steps={steps}",
                     f"generator.path={generator}"]  # fmt: skip
        return [Row(name, tuple(overrides), (("sampler", sampler), ("steps", steps)))]

    rows = [r for n in args.calls for r in row(f"pgfm {n}", "pgfm", "euler", n, args.flow)]
    rows += [r for n in args.noise_calls for r in row(f"pgfm {n} on noise", "pgfm", "euler", n, args.noise)]
    for method in ("dit", REFERENCE):
        rows += [r for n in args.steps for r in row(f"{method} {n}", method, "ddpm", n, args.noise)]
    return rows + [r for n in args.ddim_steps for r in row(f"mgd3_ddim {n}", "mgd3_ddim", "ddim", n, args.noise)]


def costs(args: argparse.Namespace, wanted: Sequence[Row]) -> None:
    """The cells of what rows cost, and of what all of them share."""
    first = Cell(Row("shared", wanted[0].overrides), args.ipc, args.seeds[0])
    file, artifacts = cost_path(args, first.row), args.work / "costs" / "artifacts"
    if not file.exists():
        done = job.run(prepare(study(args).configured(first, args.work / "costs" / "shared", artifacts)), "cluster")
        write(file, {"stages": seconds(done), "machine": machine(done.prepared.config)})
    for row in wanted:
        file = cost_path(args, row)
        if file.exists():
            continue
        folder = args.work / "costs" / file.stem
        config = study(args).configured(Cell(row, args.ipc, args.seeds[0]), folder, artifacts)
        cold()
        done = job.run(prepare(config), "sample")
        measured = {"row": row.name, "ipc": args.ipc, "stages": seconds(done), **timed(done, args.repeat)}
        write(file, measured | {"machine": machine(config)})
        print(
            f"COST {row.name}: {measured['s_an_image']:.3f} s an image, {sum(measured['stages'].values()):.1f} s",
            flush=True,
        )


def cold() -> None:
    """Ends the actors that the last row left warm: every row starts its own."""
    from raydistill.distributed import pool

    pool.release()


def seconds(done: Results) -> dict[str, float]:
    """By stage, what the run has taken over all its attempts. The method's name is taken off."""
    kept = costs_kept.read(done.prepared.run.root)
    return {name.split()[0]: cost.seconds for name, cost in kept.items()}


def timed(done: Results, repeat: int) -> dict[str, Any]:
    """Seconds an image of one batch of the plan, warm, by one process with the threads of an actor."""
    v, taken = done.prepared.variants[0], []
    with first_batch(done, v) as sampled:
        for _ in range(1 + repeat):
            start = time.perf_counter()
            size = sampled().rows
            taken.append((time.perf_counter() - start) / size)
    return {"s_an_image": statistics.median(taken[1:]), "batch": size, "threads": v.config.sample.threads}


def cost_path(args: argparse.Namespace, row: Row) -> Path:
    return args.out / f"cost-{Cell(row, args.ipc, 0).path(args.out).name.removesuffix('-seed0.json')}.json"


def cost(args: argparse.Namespace, row: Row) -> dict[str, Any] | None:
    path = cost_path(args, row)
    return json.loads(path.read_text()) if path.exists() else None


def summary(args: argparse.Namespace) -> str:
    """A Markdown table of the cells that are there."""
    shared = cost(args, Row("shared", ()))
    common = sum(shared["stages"].get(s, 0.0) for s in SHARED) if shared else None
    every = rows(args)
    base = next((c for r in every if r.name.startswith(f"{REFERENCE} ") and (c := cost(args, r))), None)
    lines = []
    for row, cells in with_cells(args, every, args.ipc):
        took = cost(args, row)
        stages = took["stages"] if took else {}
        whole = None if common is None or took is None else common + sum(stages.get(s, 0.0) for s in ("plan", "sample"))
        lines.append([
            row.name, f"{statistics.mean(c['calls'] for c in cells):g}",
            f"{took['s_an_image']:.3f}" if took else "–",
            f"{base['s_an_image'] / took['s_an_image']:.1f}" if took and base else "–",
            f"{stages['sample']:.0f}" if "sample" in stages else "–",
            f"{whole:.0f}" if whole is not None else "–",
            *(spread([100 * v for v in metric(cells, name)]) for name in COVERAGES),
            accuracy(cells, "last"), accuracy(cells, "best"), over(cells),
        ])  # fmt: skip
    lost = diverged(args, every, [args.ipc])
    if not lines:
        return lost.strip()
    head = ["set", "calls", "s an image", f"x {REFERENCE}", "sample, s", "end to end, s", "coverage near, %",
            "coverage, %", "near, M = 50", "M = 50", "last top-1, %", "best top-1, %", OVER]  # fmt: skip
    pairs = compared(args.ipc, [(row.name, cells) for row, cells in with_cells(args, every, args.ipc)])
    text = f"{args.ipc} images a class.\n\n{markdown(head, lines)}"
    return "\n\n".join(filter(None, (text, pairs))) + lost


def files(args: argparse.Namespace) -> list[Path]:
    """The cells that the table is of, those of costs among them."""
    costs = (cost_path(args, row) for row in (Row("shared", ()), *rows(args)))
    return [*grids.files(args, rows(args), [args.ipc]), *(path for path in costs if path.exists())]


def plot(args: argparse.Namespace, path: Path) -> None:
    """Accuracy and coverage against network calls: a line for each method with several numbers of calls."""
    drawn: dict[str, list[tuple[float, list[float], list[float]]]] = {}
    for row, cells in with_cells(args, rows(args), args.ipc):
        coverage = [100 * v for v in metric(cells, COVERAGES[0])]
        point = (statistics.mean(c["calls"] for c in cells), accuracies(cells, "last"), coverage)
        drawn.setdefault(row.name.replace(f" {dict(row.numbers)['steps']}", ""), []).append(point)
    if not drawn:
        return
    whole, axes = figure.panels(1, 2)
    for panel, title, which in ((axes[0, 0], "last top-1, %", 1), (axes[0, 1], "modes covered, % (M = IPC)", 2)):
        words: list[tuple[str, float, float, str]] = []
        there: list[float] = []
        for colour, (name, points) in zip(figure.COLOURS * 2, drawn.items(), strict=False):
            known = sorted((p for p in points if p[which]), key=lambda p: p[0])
            if not known:
                continue
            x = [p[0] * 1.03 ** there.count(p[0]) for p in known]  # beside each other, where calls are the same
            there += [p[0] for p in known]
            y = [statistics.mean(p[which]) for p in known]
            error = [statistics.stdev(p[which]) if len(p[which]) > 1 else 0.0 for p in known]
            panel.errorbar(x, y, yerr=error, color=colour, marker="o", markersize=4.5, linewidth=1.6, capsize=2.5)
            words.append((name, x[-1], y[-1], colour))
        figure.whole_numbers(panel, [p[0] for points in drawn.values() for p in points])
        panel.margins(x=0.16)
        panel.set_xlabel("network calls an image")
        panel.set_title(title, fontsize=10, loc="left")
        figure.labels(panel, words)
    figure.save(whole, path)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    p = parser(__doc__, "efficiency", "efficiency-CONFIG")
    two_generators(p, "dit and mgd3")
    p.add_argument("--calls", nargs="*", type=int, default=[4, 6, 8, 12, 20], help="network calls of pgfm")
    p.add_argument("--noise-calls", nargs="*", type=int, default=[], help="of pgfm on the noise model, taken as a flow")
    p.add_argument("--steps", nargs="*", type=int, default=[50], help="DDPM steps of dit and mgd3")
    p.add_argument("--ddim-steps", nargs="*", type=int, default=[], help="steps of mgd3_ddim")
    p.add_argument("--ipc", type=int, default=10)
    p.add_argument("--parts", nargs="+", choices=["scores", "costs"], default=["scores", "costs"])
    p.add_argument("--repeat", type=int, default=3, help="timed batches a row")
    return with_generators(p, argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)

    def work(wanted: list[Row]) -> None:
        if "scores" in args.parts:
            compute(args, grid(args, wanted, [args.ipc]))
        if "costs" in args.parts:
            costs(args, wanted)

    return carry(args, rows(args), work, summary, plot)


if __name__ == "__main__":
    sys.exit(entry.program(main))
