"""What a run tells MLflow of itself: its configuration and images at the start, its numbers and pages at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from raydistill import strict_json
from raydistill.config import Config, leaves
from raydistill.distributed.nodes import joins
from raydistill.identity import fingerprint
from raydistill.progress import say
from raydistill.results import detail
from raydistill.results.numbers import metrics
from raydistill.sources.base import Listing
from raydistill.sources.images import decode, png
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Prepared, Results, images_per_class, source_name
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG, MARKER, PAGE, PRODUCT, RESULT, TRAININGS
from raydistill.tracking import destination
from raydistill.tracking.destination import Destination
from raydistill.tracking.journal import FOLDER
from raydistill.tracking.tracker import DataSet, Tracker, tracking

SHARED = {"tracking", "ray", "run_dir", "artifact_dir", "tune"}  # which say where and how, and not what
RESOURCES = {"actors", "num_cpus", "num_gpus", "deadline_s", "workers", "memory_mb"}
GRID = 10  # classes down and images across
SHOWN_SIDE, GAP = 64, 2  # pixels: smaller images are enlarged by a whole number


def check(p: Prepared) -> Destination | None:
    """Where the run is told of. Raises BadInput for what cannot be, at a new run also for what does not answer."""
    where = destination.find(p.config.tracking)
    if where is None:
        return None
    fault = destination.check(where, new=not (p.run.root / MARKER).exists())
    if fault:
        say("tracking", f"{where.uri}: {fault}; the run goes on and keeps its records for later")
    if where.file is not None and joins(p.config.ray):
        say(
            "tracking",
            f"{where.uri} is a file of the machine where this driver runs, and another machine would write its own; "
            "give the address of a server if it may run elsewhere next time (tracking.uri=http://HOST:PORT)",
        )
    return where


def key(config: Config) -> str:
    """What makes it one run to MLflow: the configuration, but for where and with how much it is run."""
    tree = {k: v for k, v in config.tree().items() if k not in SHARED}
    kept = {k: _without_resources(v) if isinstance(v, dict) else v for k, v in tree.items()}
    return fingerprint("tracked", kept)


@contextmanager
def run(p: Prepared, where: Destination | None) -> Iterator[Tracker | None]:
    """Tells of a run while it goes on, and of its end. None if nobody wants to know."""
    if where is None:
        yield None
        return
    with tracking(where, p.run.root) as uploads, uploads.run(key(p.config), p.run.root.name) as tracker:
        tracker.params(flat(p.config))
        tracker.tags(
            {
                "raydistill.method": p.config.method,
                "raydistill.fingerprint": key(p.config),
                "raydistill.run_dir": str(p.run.root),
                "mlflow.note.content": f"{source_name(p.config)}, {images_per_class(p.config.ipc)} by "
                f"{p.config.method}, in `{p.run.root}`",
            }
        )
        tracker.dataset(source(p.config, p.splits.train, "source"))
        tracker.dataset(source(p.config, p.splits.test, "testing"))
        with uploads.watching(tracker):
            yield tracker


def results(tracker: Tracker, done: Results, reported: bool) -> None:
    """Everything that a run has made by the time it ends well; `reported` says that it has written its report."""
    p, main = done.prepared, done.syntheses.get(done.prepared.config.method)
    tracker.metrics(strict_json.mapping((p.run.root / RESULT).read()) if reported else metrics(done))
    for curves in detail.curves(done):
        for line in curves.lines:
            for visits, accuracy in zip(line.x, line.mean, strict=True):
                key = f"curve/{curves.student}/{line.name.replace(' ', '_')}"
                tracker.metrics({key: round(float(accuracy), 6)}, int(visits))  # with the digits of result.json
    for name, distilled in done.syntheses.items():
        numbers = distilled.numbers()
        tracker.metrics({f"nfe/{name}": numbers.nfe.mean, f"effective_sample_size/{name}": distilled.sample_size()})
        if distilled is main:
            for trace, steps in numbers.curves().items():
                for step, spread in steps:
                    tracker.metrics({f"guidance/{trace}": spread.mean}, step)
        images(tracker, p, name, distilled)
    if main is not None:
        tracker.dataset(distilled_set(p, p.config.method, main, p.run.root / PRODUCT))
    for file in (CONFIG, RESULT, TRAININGS, PAGE) if reported else (CONFIG,):
        tracker.file(file)
    tracker.end("FINISHED", changed=done.computed)


def images(tracker: Tracker, p: Prepared, name: str, distilled: DistilledSet) -> None:
    """The first images of a set, as one picture."""
    file = f"{FOLDER}/{tracker.journal.key}/{name.replace('/', '_')}.png"
    (p.run.root / file).write(png(grid(p.config, distilled)))
    tracker.file(file, "images")


def distilled_set(p: Prepared, method: str, distilled: DistilledSet, where: Location) -> DataSet:
    """A set as a dataset of MLflow."""
    about = {"images": distilled.rows, "classes": len(p.splits.train.classes), "ipc": p.config.ipc}
    name = f"{source_name(p.config)}-{method}-ipc{p.config.ipc}"
    return DataSet(name, distilled.digest, str(where), "distilled", about)


def flat(config: Config) -> dict[str, Any]:
    """Every key with its value."""
    tree, values = config.tree(), {}
    for name, _ in leaves(Config):
        value: Any = tree
        for part in name.split("."):
            value = value[part]
        values[name] = value
    for section in config.brought:
        values |= {f"{section}.{name}": value for name, value in tree[section].items()}
    return values


def grid(config: Config, distilled: DistilledSet) -> np.ndarray:
    """The first images of the first classes, a class a row; white where there is none. uint8 (H, W, 3)."""
    tables = [t.filter(_first(t)) for t in distilled.tables(["class_index", "slot", "image"])]
    table, side = pa.concat_tables(tables), config.source.image_size
    rows, columns = int(np.max(table["class_index"])) + 1, int(np.max(table["slot"])) + 1
    scale = -(-SHOWN_SIDE // side)
    cell = side * scale + GAP
    pixels = np.full((rows, columns, cell, cell, 3), 255, np.uint8)
    for row in table.to_pylist():
        image = decode(row["image"], side, config.source.max_pixels)
        pixels[row["class_index"], row["slot"], GAP:, GAP:] = image.repeat(scale, 0).repeat(scale, 1)
    return pixels.transpose(0, 2, 1, 3, 4).reshape(rows * cell, columns * cell, 3)


def _first(table: pa.Table) -> pa.Array:
    return pa.array((table["class_index"].to_numpy() < GRID) & (table["slot"].to_numpy() < GRID))


def source(config: Config, listing: Listing, context: str) -> DataSet:
    """A split of the images as a dataset of MLflow."""
    where = config.source.path or f"raydistill://{config.source.kind}"
    about = {
        "images": len(listing),
        "classes": len(listing.classes),
        "split": listing.split,
        "kind": config.source.kind,
    }
    return DataSet(f"{source_name(config)}-{listing.split}", listing.digest, where, context, about)


def _without_resources(section: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in section.items() if k not in RESOURCES}
