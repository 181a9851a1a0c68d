"""A folder of Parquet shards whose split `val` is that of several folders together, as links: no image is copied.

    python benchmarks/results/one_split.py IMAGENETTE IMAGENETTE_VAL_REST --out IMAGENETTE_3925

The first folder gives the training images and classes.json, every one its val shards, under names in one numbering.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from raydistill.errors import BadInput
from raydistill.sources.layout import CLASSES


def join(folders: Sequence[Path], out: Path, split: str = "val") -> list[Path]:
    """The shards of the split in `out`, which must be new. Raises BadInput."""
    shards = [shard for folder in folders for shard in sorted(folder.glob(f"{split}-*.parquet"))]
    for folder in folders:
        if not any(shard.parent == folder for shard in shards):
            raise BadInput(f"{folder} has no {split}-*.parquet; give folders of Parquet shards")
    if out.exists():
        raise BadInput(f"--out: {out} is there already; give a new folder")
    out.mkdir(parents=True)
    for beside in [*sorted(folders[0].glob("train-*.parquet")), folders[0] / CLASSES]:
        (out / beside.name).symlink_to(beside.resolve())
    joined = [out / f"{split}-{i:05d}-of-{len(shards):05d}.parquet" for i in range(len(shards))]
    for name, shard in zip(joined, shards, strict=True):
        name.symlink_to(shard.resolve())
    return joined


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="+", type=Path)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args(argv)
    try:
        print(f"{args.out}: {len(join(args.folders, args.out))} val shards")
    except BadInput as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
