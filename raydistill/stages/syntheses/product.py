"""assemble: syntheses -> `distilled/`, only a card and, in data/, Parquet shards in the Hugging Face image layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from raydistill import code_identity
from raydistill.exporters.base import CARD, DATA, SHARD
from raydistill.identity import canonical, digest, fingerprint
from raydistill.progress import say
from raydistill.sources.base import ClassInfo, unique_names
from raydistill.stages.renew import fresh, put_aside, renew
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.stages.syntheses.in_order import InOrder
from raydistill.store import faults, schemas, seals
from raydistill.store.location import Location
from raydistill.store.rundir import PRODUCT
from raydistill.store.seals import State
from raydistill.store.tables import joined_bytes

SHARD_ROWS = 5000
GROUP_ROWS = 500  # of a row group: images of 512 px are half a megabyte, and a column of Arrow ends at two gigabytes
COLUMNS = ("image", "class_index", "weight", "prototype_id", "seed_key", "nfe", "image_id")
Bytes = Callable[[], bytes]  # made when they are asked for: a set's files are more than memory holds
READERS = 16  # shards checked at once


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
    write stays; where it has the name of one of our files, it is kept beside it (`mine`). The seals of a finished
    product say what it was made from: it is read to see that it is whole, and the syntheses are not.
    """
    made_from = _made_from(distilled, classes, method, provenance, card)
    if _stands(run, distilled.rows, made_from):
        return False
    rows = InOrder(distilled, COLUMNS)
    files: dict[str, Bytes] = {
        f"{PRODUCT}/{DATA}/{name}": partial(_shard, rows, i * SHARD_ROWS, classes, method, provenance)
        for i, name in enumerate(_shard_names(len(rows)))
    }
    files[f"{PRODUCT}/{CARD}"] = card.encode
    changed = _remove_other(run, files)
    for name, make in files.items():
        data = make()
        if not seals.holds(run, name, data):
            faults.reach(PRODUCT, "before_write", name.removeprefix(f"{PRODUCT}/"))
        changed |= renew(run, name, data, made_from, mine(name))
    return changed


def _made_from(
    distilled: DistilledSet, classes: Sequence[ClassInfo], method: str, provenance: Mapping[str, Any], card: str
) -> str:
    """What decides every byte of the product, for its seals: the set's digest and, after "-", that of all the rest."""
    schema = digest(_schema(classes).serialize().to_pybytes())
    code = code_identity.of(assemble)  # this file's, and that of the sets which it reads
    rest = fingerprint("product", code, pa.__version__, SHARD_ROWS, GROUP_ROWS, schema, method, provenance, card)
    return f"{distilled.digest}-{rest}"


def _stands(run: Location, rows: int, made_from: str) -> bool:
    """Whether of our files there are just those of this product, each as it was sealed, and no shard of others."""
    files = {f"{PRODUCT}/{DATA}/{name}" for name in _shard_names(rows)} | {f"{PRODUCT}/{CARD}"}
    sealed = _sealed(run)
    others = _present(run) - sealed
    if sealed != files or any(map(_by_our_name, others)):
        return False
    with ThreadPoolExecutor(READERS) as pool:
        whole = all(pool.map(lambda name: fresh(run, name, made_from), files))
    if whole:
        _tell_of(run, others)
    return whole


def mine(name: str) -> str:
    """Where a file of somebody else goes that has the name of ours: no loader takes it for a shard.

    pandas takes all that lies in data/ for shards.
    """
    return f"{PRODUCT}/{name.rpartition('/')[2]}.mine-{{}}"


def _remove_other(run: Location, files: Mapping[str, Bytes]) -> bool:
    """Removes what we wrote of another product. Shards of others are moved aside or, by names unlike ours, told of.

    Shards beside the card are those of an older version: what it made of this product is not kept twice.
    """
    changed, present, sealed = False, _present(run), _sealed(run)
    for name in sorted(sealed - {n for n in sealed & set(files) if seals.holds(run, n, files[n]())}):
        if seals.state(run, name) is State.WHOLE:
            (run / name).delete()
            seals.remove(run, name)
            changed = True
        elif name not in files:
            changed |= _move_aside(run, name, present, b"")
            seals.remove(run, name)
    others = present - sealed - set(files)
    for name in sorted(filter(_by_our_name, others)):
        ours = files.get(f"{PRODUCT}/{DATA}/{name.rpartition('/')[2]}", bytes)
        changed |= _move_aside(run, name, present, ours())
    _tell_of(run, others)
    return changed


def _present(run: Location) -> set[str]:
    """The files that lie in the folder, whosoever they are."""
    folders = (PRODUCT, f"{PRODUCT}/{DATA}")
    return {f"{f}/{i.base_name}" for f in folders for i in (run / f).infos() if i.type == pafs.FileType.File}


def _sealed(run: Location) -> set[str]:
    """The files of which we have said that we wrote them, there or not."""
    return {name for name in seals.names(run) if name.startswith(f"{PRODUCT}/")}


def _by_our_name(name: str) -> bool:
    return SHARD.fullmatch(name.rpartition("/")[2]) is not None


def _tell_of(run: Location, others: Set[str]) -> None:
    """Says which files of somebody else the loaders of the folder would read."""
    for name in sorted(others):
        if name.endswith(".parquet") and name.startswith(f"{PRODUCT}/{DATA}/") and not _by_our_name(name):
            say("distilled", f"{run / name} is not of this product, but loaders of the folder read it; move it away")


def _move_aside(run: Location, name: str, present: Set[str], ours: bytes) -> bool:
    """A file that is not as we wrote it, by the name of a shard that the product has not; `ours` are not kept."""
    if name not in present:
        return False
    kept = put_aside(run, name, mine(name), ours)
    if kept:
        say("kept", f"{run / name} is not of this product; it is kept as {kept}")
    (run / name).delete()
    return True


def _shard(rows: InOrder, start: int, classes: Sequence[ClassInfo], method: str, provenance: dict[str, Any]) -> bytes:
    """The shard of the rows from `start` on."""
    stop = min(start + SHARD_ROWS, len(rows))
    names, schema = unique_names(classes), _schema(classes)

    def group(first: int) -> pa.Table:
        part = rows.rows(first, min(first + GROUP_ROWS, stop))
        labels = part["class_index"].to_pylist()
        slots = part["slot"].to_pylist()
        columns = {
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
        return pa.table(columns, schema=schema)

    return joined_bytes(map(group, range(start, stop, GROUP_ROWS)), schema)


def _shard_names(rows: int) -> list[str]:
    total = -(-rows // SHARD_ROWS)
    return [f"train-{i:05d}-of-{total:05d}.parquet" for i in range(total)]


def _schema(classes: Sequence[ClassInfo]) -> pa.Schema:
    return schemas.distilled(unique_names(classes), [c.class_id for c in classes])
