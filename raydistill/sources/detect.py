"""What lies at `source.path` where nobody said it: source.kind=auto."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyarrow import fs as pafs

from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.progress import say
from raydistill.registry import register
from raydistill.sources import arrow, hub
from raydistill.sources.base import Listing, open_source
from raydistill.sources.layout import open_root, pickle_in, refused_pickle, required_path
from raydistill.sources.tensors import is_tensors
from raydistill.sources.tree import hidden, is_image
from raydistill.store.hub import refuse_revision
from raydistill.store.location import Location, infos

AUTO = "auto"
DEPTH, BREADTH = 5, 8  # levels of folders that are looked into, and folders of a level
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".7z", ".rar", ".tar.xz", ".tar.bz2")
SPLIT = ("imagefolder", "parquet", "webdataset")  # kinds of several splits
CALLED = {
    "imagefolder": "folders of images",
    "parquet": "Parquet or Arrow tables",
    "webdataset": "tar archives of images",
    "tensors": "tensors",
}


def settled(config: SourceConfig) -> SourceConfig:
    """The same with the kind that is there in place of `auto`, and a line that says it. Raises BadInput.

    An id on the hub has its commit and its folder by then.
    """
    if config.kind in (AUTO, *SPLIT):
        config = hub.located(config)
    elif config.revision is not None:
        refuse_revision("source", config.revision, config.path)
    if config.kind != AUTO:
        return config
    kind = kind_of(open_root(required_path(config)))
    say("source", f"{config.path} holds {CALLED[kind]}: source.kind={kind}")
    return config.model_copy(update={"kind": kind})


def kind_of(root: Location) -> str:
    """The kind of source that a folder is. Raises BadInput where it is none, or several."""
    kinds: dict[str, str] = {}
    archives: list[str] = []
    loose: list[str] = []  # images in no folder
    for where, level, inside in _walk(root):
        names = [i.base_name for i in inside if i.type == pafs.FileType.File]
        for name in names:
            kind = _kind_of_file(name, level)
            if kind is not None:
                kinds.setdefault(kind, f"{where}/{name}")
        if arrow.STATE in names and any(n.endswith(arrow.SUFFIX) for n in names):
            kinds.setdefault("parquet", f"{where}/{arrow.STATE}")
        loose += [] if level else [n for n in names if is_image(n)]
        archives += [f"{where}/{n}" for n in names if n.lower().endswith(ARCHIVES)]
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds:
        several = " and ".join(f"{CALLED[kind]} ({file})" for kind, file in kinds.items())
        choices = " or ".join(f"source.kind={kind}" for kind in kinds)
        raise BadInput(f"source.path: {root} holds {several}; say which are meant: {choices}")
    if (pickle := pickle_in(root)) is not None:
        raise BadInput(refused_pickle("/".join(filter(None, (str(root), *pickle)))))
    if archives:
        raise BadInput(f"source.path: {root} holds no images but {archives[0]}; unpack it, and give the folder")
    if loose:
        above = str(root).rstrip("/").rpartition("/")[0]
        raise BadInput(
            f"source.path: {root} holds {len(loose)} images ({min(loose)}) in no folders of classes; sort them into "
            f"CLASS/, or, if it is a class itself, give the folder of all classes: source.path={above}"
        )
    raise BadInput(
        f"source.path: {root} holds no images that are read (CLASS/*.jpg and the like, Parquet, tar archives; "
        "docs/bring-your-own.md#images); give the folder that holds the splits or the classes"
    )


def _kind_of_file(name: str, level: int) -> str | None:
    """Images directly in `source.path` belong to no class: they are a picture beside the data."""
    if name.startswith((".", "_")):
        return None
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith(".tar"):
        return "webdataset"
    if level and is_image(name):
        return "imagefolder"
    return "tensors" if is_tensors(name) else None


def _walk(root: Location) -> Iterator[tuple[str, int, Sequence[pafs.FileInfo]]]:
    """Folders with what lies in them, level by level; not below folders that hold images, which are classes."""
    fs, base = root.filesystem()
    below = [base]
    for level in range(DEPTH):
        deeper: list[str] = []
        for folder in below:
            inside = infos(fs, folder)
            yield folder, level, inside
            if not any(level and is_image(i.base_name) for i in inside):
                folders = sorted(i.base_name for i in inside if i.type == pafs.FileType.Directory)
                deeper += [f"{folder}/{name}" for name in folders if not hidden(name)]
        below = deeper[:BREADTH]


@register("source", AUTO)
class Auto:
    """The source that lies at `source.path`, whichever it is; a run keeps which one it was in its configuration."""

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        required_path(config)

    def list(self, split: str) -> Listing:
        return open_source(settled(self.config)).list(split)

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        return open_source(settled(self.config)).read(split, ids)
