"""Small image sets that tests write, and the configurations that open them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from raydistill import registry
from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.sources.base import Source
from raydistill.sources.images import png

COLOURS = {"blue": (30, 60, 220), "green": (40, 190, 60), "red": (220, 40, 40)}
Rows = Sequence[tuple[bytes | None, int | None]]


def features(names: Sequence[str] | None) -> dict[bytes, bytes]:
    label = {"_type": "ClassLabel", "names": list(names)} if names is not None else {"_type": "Value", "dtype": "int64"}
    return {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}}).encode()}


def write_parquet(path: Path, rows: Rows, names: Sequence[str] | None = tuple(COLOURS), group: int = 2) -> Path:
    """One file in the Hugging Face image layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pa.array(
        [{"bytes": b, "path": f"{i}.png"} for i, (b, _) in enumerate(rows)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": image, "label": pa.array([label for _, label in rows], pa.int64())})
    pq.write_table(table.replace_schema_metadata(features(names)), path, row_group_size=group)
    return path


def rows(seed: int, count: int = 5) -> Rows:
    colours = list(COLOURS.values())
    return [(coloured_png(colours[i % 3], seed + i), i % 3) for i in range(count)]


def parquet_set(path: Path) -> Path:
    for shard in range(2):
        write_parquet(path / f"train-{shard:05d}-of-00002.parquet", rows(10 * shard))
    write_parquet(path / "val-00000-of-00001.parquet", rows(50, 3))
    return path


def config(kind: str, path: Path | str | None = None, **more: Any) -> SourceConfig:
    return SourceConfig(kind=kind, path=None if path is None else str(path), **more)


def refusal(source: Source, split: str = "train") -> str:
    """The one line with which listing is refused."""
    with pytest.raises(BadInput) as caught:
        source.list(split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def images_of(seed: int = 0, count: int = 6) -> list[bytes]:
    """The bytes of `rows`."""
    return [data or b"" for data, _ in rows(seed, count)]


def remedied(kind: str, line: str, path: Path, **more: Any) -> SourceConfig:
    """The configuration of a source with every `source.KEY=VALUE` that the error line names."""
    words = [word.strip(".,;") for word in line.replace("`", " ").split()]
    pairs = [w.removeprefix("source.").split("=", 1) for w in words if w.startswith("source.") and "=" in w]
    values = {key: yaml.safe_load(value) for key, value in pairs if value != "NAME"}
    assert values, line
    return config(kind, **({"path": path} | more | values))


def write_folder(path: Path, splits: dict[str, int]) -> Path:
    """An ImageFolder of noisy coloured images, `splits` giving the images a class; the same bytes every time."""
    for split, count in splits.items():
        for name, colour in COLOURS.items():
            folder = path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i:03d}.png").write_bytes(coloured_png(colour, seed=i + 100 * len(split)))
    return path


def write_student(folder: Path, **more: Any) -> str:
    """A classifier's folder: an untrained convnet of two classes at 16 px; the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(registry.get("student", "convnet")(2, 16, 8).state_dict(), folder / "model.safetensors")
    config = {"architecture": "convnet", "width": 8, "image_size": 16, "classes": ["3", "7"]}
    config |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "config.json").write_text(json.dumps(config | more))
    return str(folder)


def coloured_png(colour: tuple[int, int, int], seed: int, shape: tuple[int, int] = (10, 12)) -> bytes:
    """PNG bytes (H, W) of one colour with a little noise."""
    noise = np.random.default_rng(seed).integers(-30, 30, (*shape, 3))
    return png(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def write_tar(path: Path, files: Sequence[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """An archive of plain files in the order given; the same bytes every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_samples(seed: int, count: int = 5) -> list[tuple[str, bytes]]:
    """KEY.cls before KEY.png, the classes in turn."""
    return [
        file
        for i, (data, label) in enumerate(rows(seed, count))
        for file in ((f"{seed + i:04d}.cls", str(label).encode()), (f"{seed + i:04d}.png", data or b""))
    ]


def tar_set(path: Path) -> Path:
    for shard in range(2):
        write_tar(path / f"train-{shard:05d}.tar", tar_samples(10 * shard))
    write_tar(path / "val-00000.tar", tar_samples(50, 3))
    (path / "classes.json").write_text(json.dumps({"dirs": ["n0", "n1", "n2"], "names": list(COLOURS)}))
    return path
