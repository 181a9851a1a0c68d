"""What a cell keeps of a finished run."""

from __future__ import annotations

import os
import platform
from typing import Any

from raydistill.config import Config
from raydistill.results.numbers import metrics
from raydistill.stages.evaluation.trainer import body, score
from raydistill.state import Results

OTHER = ("accuracy/", "metrics/", "time/")  # of result.json: what is no metric of the set itself
LEFT_OUT = ("per_class", "confusion")  # of a score, to keep cells small


def numbers(done: Results) -> dict[str, Any]:
    """Calls, accuracies, metrics, where samples ended and how long their way was, and what all of it was made with."""
    config, mine = done.prepared.config, done.trainings
    first = body(mine[0]) or {}
    flat = {k: v for k, v in metrics(done).items() if not k.startswith(OTHER)}
    calls = flat.pop("network_calls", 0.0)  # nothing is asked for real images
    rows = [
        {"student": t.student, "training_seed": t.seed, **{k: v for k, v in s.tree().items() if k not in LEFT_OUT}}
        for t in mine
        if (s := score(t)) is not None
    ]
    return {
        "method": mine[0].set.name,
        "images": mine[0].set.images,
        "rows": rows,
        **{key: first[key] for key in ("protocol", "protocol_name", "bytes", "teacher")},
        "metrics": flat,
        "calls": calls,
        **ended(done),
        "config": portable(config.tree()),
        "machine": machine(config),
    }


def ended(done: Results) -> dict[str, Any]:
    """Means over slots: `landing`, and of flows `detour`; None where there is none."""
    distilled = done.syntheses.get(done.prepared.config.method)
    if distilled is None:  # all images, as they are
        return {"landing": None, "detour": None}
    counted = distilled.numbers()
    return {name: s and round(s.mean, 6) for name, s in (("landing", counted.landing), ("detour", counted.path_ratio))}


def portable(tree: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the folders of this machine."""
    for key in ("run_dir", "artifact_dir"):
        tree.pop(key)
    for section in ("source", "vae", "generator", "teacher", "features"):
        tree[section]["path"] = os.path.basename(tree[section]["path"] or "")
    return tree


def machine(config: Config) -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, {config.evaluate.num_gpus:g} GPUs a worker"
