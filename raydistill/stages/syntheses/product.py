"""assemble: syntheses -> `distilled/`, only a card and, in data/, Parquet shards in the Hugging Face image layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs as pafs

from raydistill.exporters.base import CARD, DATA, SHARD
from raydistill.identity import canonical
from raydistill.progress import say
from raydistill.sources.base import ClassInfo, unique_names
from raydistill.stages.renew import put_aside, renew
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.store import faults, schemas, seals
from raydistill.store.artifact import table_bytes
from raydistill.store.location import Location
from raydistill.store.rundir import PRODUCT
from raydistill.store.seals import State

SHARD_ROWS = 5000


def assemble(
    run: Location,
    distilled: DistilledSet,
    classes: Sequence[ClassInfo],
    method: str,
    provenance: dict[str, Any],
    card: str,
) -> bool:
    """Writes run/distilled/ so that of our files it holds exactly this product. Returns False if it did already.

    The bytes depend on the syntheses and the provenance alone. What we wrote of another product is removed first, so
    the folder never mixes two; an interruption leaves it incomplete, and the same command completes it. What we did not
    write stays; where it has the name of one of our files, it is kept beside it (`mine`).
    """
    table = distilled.read()
    table = table.take(
        pc.sort_indices(
            table.select(["class_index", "slot"]), sort_keys=[("class_index", "ascending"), ("slot", "ascending")]
        )
    )
    files = {f"{PRODUCT}/{DATA}/{name}": data for name, data in _shards(table, classes, method, provenance)}
    files[f"{PRODUCT}/{CARD}"] = card.encode()
    changed = _remove_other(run, files)
    for name, data in files.items():
        if not seals.holds(run, name, data):
            faults.reach(PRODUCT, "before_write", name.removeprefix(f"{PRODUCT}/"))
        changed |= renew(run, name, data, distilled.digest, mine(name))
    return changed


def mine(name: str) -> str:
    """Where a file of somebody else goes that has the name of ours: no loader takes it for a shard.

    pandas takes all that lies in data/ for shards.
    """
    return f"{PRODUCT}/{name.rpartition('/')[2]}.mine-{{}}"


def _remove_other(run: Location, files: Mapping[str, bytes]) -> bool:
    """Removes what we wrote of another product. Shards of others are moved aside or, by names unlike ours, told of.

    Shards beside the card are those of an older version: what it made of this product is not kept twice.
    """
    changed, folders = False, (PRODUCT, f"{PRODUCT}/{DATA}")
    present = {f"{f}/{i.base_name}" for f in folders for i in (run / f).infos() if i.type == pafs.FileType.File}
    sealed = {n for n in seals.names(run) if n.startswith(f"{PRODUCT}/")}
    for name in sorted(sealed - {n for n, data in files.items() if seals.holds(run, n, data)}):
        if seals.state(run, name) is State.WHOLE:
            (run / name).delete()
            seals.remove(run, name)
            changed = True
        elif name not in files:
            changed |= _move_aside(run, name, present, b"")
            seals.remove(run, name)
    for name in sorted(present - sealed - set(files)):
        if SHARD.fullmatch(name.rpartition("/")[2]):
            changed |= _move_aside(run, name, present, files.get(f"{PRODUCT}/{DATA}/{name.rpartition('/')[2]}", b""))
        elif name.endswith(".parquet") and name.startswith(f"{PRODUCT}/{DATA}/"):
            say("distilled", f"{run / name} is not of this product, but loaders of the folder read it; move it away")
    return changed


def _move_aside(run: Location, name: str, present: Set[str], ours: bytes) -> bool:
    """A file that is not as we wrote it, by the name of a shard that the product has not; `ours` are not kept."""
    if name not in present:
        return False
    kept = put_aside(run, name, mine(name), ours)
    if kept:
        say("kept", f"{run / name} is not of this product; it is kept as {kept}")
    (run / name).delete()
    return True


def _shards(
    table: pa.Table, classes: Sequence[ClassInfo], method: str, provenance: dict[str, Any]
) -> list[tuple[str, bytes]]:
    names = unique_names(classes)
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
