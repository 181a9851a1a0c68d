"""The splits of a folder of one's own: which folders are they, and what stands in for the one that is not there."""

from __future__ import annotations

from pyarrow import fs as pafs

from raydistill.config import SourceConfig
from raydistill.sources import parquet, webdataset
from raydistill.sources.labelfile import label_file
from raydistill.sources.layout import VAL, open_root, required_path
from raydistill.sources.levels import HERE, TRAIN_NAMES, VAL_NAMES, is_class
from raydistill.sources.tree import hidden, is_image
from raydistill.store.location import Location

HELD_OUT = "split:0.2"
WRAPPERS = 2  # folders that hold nothing but the set


def located(config: SourceConfig) -> dict[str, str]:
    """`train` and `val` of a source of a settled kind, where they are not the usual ones.

    What this does not see is left to the source, which refuses it in a line.
    """
    root = open_root(required_path(config))
    if config.kind == "imagefolder":
        return _of_folders(root, "", WRAPPERS)
    names = parquet.splits_there(root) if config.kind == "parquet" else webdataset.splits_there(root)
    train = next((n for n in names if n.lower() in TRAIN_NAMES), names[0] if len(names) == 1 else "train")
    keys = {} if train == "train" else {"train": train}
    return keys | _val([n for n in names if n != train])


def _val(names: list[str], above: str = "") -> dict[str, str]:
    """The key of the validation split among those that are there; the usual one is found without."""
    name = next((n for known in VAL_NAMES for n in names if n.lower() == known), None)
    if name is None:
        return {"val": HELD_OUT}
    return {} if above + name == VAL else {"val": above + name}


def _of_folders(root: Location, above: str, wrappers: int) -> dict[str, str]:
    """Of the folder `above` in the source's, "" or with a slash at its end."""
    folder = root / above.rstrip("/") if above else root
    folders, images = _inside(folder)
    alone = len(folders) == 1 and not images and folders[0].lower() not in TRAIN_NAMES
    if wrappers and alone and _inside(folder / folders[0])[0]:
        return _of_folders(root, f"{above}{folders[0]}/", wrappers - 1)
    train = next((f for f in folders if f.lower() in TRAIN_NAMES and not is_class(root, above + f)), None)
    if train is None:
        classes = len(folders) > 1 and all(f.lower() not in VAL_NAMES for f in folders)
        return {"train": above.rstrip("/") or HERE, "val": HELD_OUT} if classes else {}
    keys = {} if above + train == "train" else {"train": above + train}
    return keys | _val([f for f in folders if f != train and _labelled(root, above + f)], above)


def _labelled(root: Location, split: str) -> bool:
    """Whether the classes of a split's images are known: test images often come without."""
    return bool(_inside(root / split)[0]) or label_file(root, split, tables=True) is not None


def _inside(folder: Location) -> tuple[list[str], bool]:
    """The folders in a folder, and whether images lie beside them."""
    infos = [i for i in folder.infos() if not hidden(i.base_name)]
    folders = sorted(i.base_name for i in infos if i.type == pafs.FileType.Directory)
    return folders, any(i.type == pafs.FileType.File and is_image(i.base_name) for i in infos)
