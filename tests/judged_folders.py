"""Small folders of images as somebody else would distil them, in every layout, with and without weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import coloured_png, features, write_tar

from raydistill import config as configuration
from raydistill.errors import BadInput
from raydistill.models.vae import VaeSpec
from raydistill.sources.base import ClassInfo
from raydistill.stages import runner
from raydistill.stages.syntheses import ingest
from raydistill.store.rundir import RunDir

THREE = (ClassInfo("n01", "tench"), ClassInfo("n02", "cock"), ClassInfo("n03", "jay"))
SIZE = 32


def image(label: int, number: int = 0, side: int = SIZE) -> bytes:
    return coloured_png((60 * label, 200 - 40 * label, 30 * number), seed=10 * label + number, shape=(side, side))


def folders(root: Path, names: tuple[str, ...] = ("n01", "n02", "n03"), ipc: int = 2) -> Path:
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(ipc):
            (root / name / f"{number}.png").write_bytes(image(label, number))
    return root


def parquet(path: Path, weights: list[Any] | None = None, names: Any = ("tench", "cock", "jay")) -> Path:
    rows = [(image(label, n), label) for label in range(3) for n in range(2)]
    column = pa.array(
        [{"bytes": b, "path": None} for b, _ in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": column, "label": pa.array([label for _, label in rows], pa.int64())})
    if weights is not None:
        table = table.append_column("weight", pa.array(weights, pa.float64()))
    path.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(features(names)), path / "train-00000-of-00001.parquet")
    return path


def tars(path: Path, weights: list[Any] | None = None) -> Path:
    files = []
    for i in range(6):
        label, number = divmod(i, 2)
        told = {"label": label, **({"weight": weights[i]} if weights is not None and weights[i] != "none" else {})}
        files += [(f"{i:03d}.png", image(label, number)), (f"{i:03d}.json", json.dumps(told).encode())]
    write_tar(path / "train-000000.tar", files)
    (path / "classes.json").write_text(json.dumps({"dirs": ["n01", "n02", "n03"], "names": ["tench", "cock", "jay"]}))
    return path


def settings(images: Path, **more: Any) -> configuration.Config:
    return configuration.load("quickstart", [f"evaluate.images={images}", *(f"{k}={v}" for k, v in more.items())])


def find(images: Path, classes: tuple[ClassInfo, ...] = THREE) -> ingest.JudgedFolder:
    return ingest.find(settings(images), classes)


def refused(images: Path, classes: tuple[ClassInfo, ...] = THREE) -> str:
    with pytest.raises(BadInput) as caught:
        find(images, classes)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"--images {images}: ")
    return line


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "CLASS": folders,
    "train/CLASS": lambda root: folders(root / "train").parent,
    "by name": lambda root: folders(root, ("tench", "cock", "jay")),
    "parquet": parquet,
    "parquet in data/": lambda root: parquet(root / "data").parent,
    "tar": tars,
}


def weighted(root: Path, kind: str, weights: list[Any]) -> Path:
    if kind == "parquet":
        return parquet(root, weights)
    if kind == "tar":
        return tars(root, weights)
    folders(root)
    lines = [(f"n0{i // 2 + 1}/{i % 2}.png", w) for i, w in enumerate(weights) if w != "none"]
    if kind == "jsonl":
        text = "".join(json.dumps({"file_name": n, "weight": w}) + "\n" for n, w in lines)
        (root / "metadata.jsonl").write_text(text)
    else:
        (root / "weights.csv").write_text("file_name,weight\n" + "".join(f"{n},{w}\n" for n, w in lines))
    return root


def imported(tmp_path: Path, mine: Path, **more: Any) -> tuple[ingest.JudgedFolder, runner.Outcome, Any]:
    config = settings(mine, **({"sample.batch": 4} | more))
    judged = ingest.find(config, THREE)
    stage = ingest.stage(config, RunDir(str(tmp_path / "run")), judged, VaeSpec(None))
    return judged, runner.run(stage, runner.serial), stage
