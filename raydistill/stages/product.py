"""assemble: syntheses -> `distilled/`, only Parquet shards in the Hugging Face image layout and a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raydistill.identity import canonical, digest
from raydistill.sources.base import ClassInfo
from raydistill.store import faults, schemas
from raydistill.store.artifact import Artifact, Manifest, table_bytes
from raydistill.store.location import Location

SHARD_ROWS = 5000


def assemble(
    root: Location,
    syntheses: Artifact,
    manifest: Manifest,
    classes: Sequence[ClassInfo],
    method: str,
    provenance: dict[str, Any],
    card: str,
) -> bool:
    """Writes `root` so that it holds exactly this product. Returns False if it did already.

    The bytes depend on the syntheses and the provenance alone. What belongs to another product is removed first, so the
    folder never mixes two; an interruption leaves it incomplete, and the same command completes it.
    """
    table = pa.concat_tables([syntheses.read_table(r) for r in manifest.records])
    table = table.take(
        pc.sort_indices(
            table.select(["class_index", "slot"]), sort_keys=[("class_index", "ascending"), ("slot", "ascending")]
        )
    )
    files = {name: data for name, data in _shards(table, classes, method, provenance)}
    files["README.md"] = card.encode()
    have = root.list()
    if sorted(have) == sorted(files) and all(_same(root / n, d) for n, d in files.items()):
        return False
    for name in have:
        if name not in files:
            (root / name).delete()
    for name, data in files.items():
        faults.reach("distilled", "before_write", name)
        (root / name).write(data)
    return True


def _same(place: Location, data: bytes) -> bool:
    return place.size() == len(data) and digest(place.read()) == digest(data)


def label_names(classes: Sequence[ClassInfo]) -> list[str]:
    """One name a class, no two alike, as ClassLabel demands: the class id is added to names that classes share."""
    names = [c.class_name or c.class_id for c in classes]
    shared = {n for n, count in Counter(names).items() if count > 1}
    unique = [f"{n} ({c.class_id})" if n in shared else n for n, c in zip(names, classes, strict=True)]
    if len(set(unique)) < len(unique):  # such a name was there already
        unique = [f"{n} ({c.class_id})" for n, c in zip(names, classes, strict=True)]
    return unique


def _shards(
    table: pa.Table, classes: Sequence[ClassInfo], method: str, provenance: dict[str, Any]
) -> list[tuple[str, bytes]]:
    names = label_names(classes)
    schema = schemas.distilled(names, [c.class_id for c in classes])
    total = -(-len(table) // SHARD_ROWS)
    shards = []
    for i in range(total):
        part = table.slice(i * SHARD_ROWS, SHARD_ROWS)
        labels = part["class_index"].to_pylist()
        slots = part["slot"].to_pylist()
        rows = {
            "image": [
                {"bytes": data, "path": f"{classes[c].class_id}-{s:05d}.png".replace("/", "_")}
                for data, c, s in zip(part["image"].to_pylist(), labels, slots, strict=True)
            ],
            "label": labels,
            "class_name": [names[c] for c in labels],
            "weight": part["weight"],
            "slot": slots,
            "prototype_id": part["prototype_id"],
            "method": [method] * len(part),
            "seed_key": part["seed_key"],
            "provenance": [
                canonical({**provenance, "nfe": n, **({"image_id": r} if r else {})})
                for n, r in zip(part["nfe"].to_pylist(), part["image_id"].to_pylist(), strict=True)
            ],
        }
        shards.append((f"train-{i:05d}-of-{total:05d}.parquet", table_bytes(pa.table(rows, schema=schema))))
    return shards
