"""WebDataset: tar shards in which the files of one sample share a name, KEY.jpg beside KEY.cls or KEY.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import pyarrow as pa
from pyarrow import fs as pafs

from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed
from raydistill.registry import register
from raydistill.sources.base import Listing
from raydistill.sources.layout import no_split, open_root, required_path, split_there
from raydistill.sources.leakage import check_read_copies
from raydistill.sources.shard import IMAGES, class_archive, classes_of, fault_text, key_of, read_shard
from raydistill.sources.tar import ReadWindow, TarFault, member_at
from raydistill.store.location import Location, infos

SHARDS = 100_000  # of one brace pattern
READERS, READERS_REMOTE = 4, 16  # shards listed at a time, each of them as Python objects until it is done
AHEAD, AHEAD_REMOTE = 2**13, 2**20  # bytes a request: a few headers from a disk; from an object store, several images
BRACES = re.compile(r"(?P<head>.*)\{(?P<first>\d+)\.\.(?P<last>\d+)\}(?P<tail>.*)")
NUMBERED = re.compile(r"(?P<head>.*?)(?P<index>\d+)\.tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd")


@register("source", "webdataset")
class WebDataset:
    """PATH/SPLIT-*.tar, PATH/SPLIT/*.tar, or a split named with braces: source.train=train-{00000..00009}.

    A sample is the files that share a path up to the first dot of their name (WebDataset's rule): one image, and its
    class as the text of KEY.cls, the label of KEY.json, or else the folder that it lies in; in ImageNet's own archives
    the name of the archive. An image's id is SHARD#KEY@BYTE, the byte at which its header lies, so that any image is
    read from anywhere without looking for it. `classes.json` in PATH gives the classes: numbers by position, texts by
    id or name; without it a class is its number or text.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.path = required_path(config)
        self.label_key = config.label_column

    def list(self, split: str) -> Listing:
        """Shards by name (or as the braces count), samples in order. Reads headers and labels only."""
        root = open_root(self.path)
        split, infos = _shards(root, split)
        fs, base = root.filesystem()
        with ThreadPoolExecutor(READERS if root.is_local else READERS_REMOTE) as pool:
            shards = list(pool.map(lambda info: read_shard(fs, base, info, _ahead(root), self.label_key), infos))
        classes, labels = classes_of(root, shards)
        if not len(labels):
            raise BadInput(
                f"source: the shards of split {split!r} in {root} hold no image ({', '.join(IMAGES)}); "
                "give shards of images"
            )
        tags = [pa.repeat(pa.scalar(s.tag, pa.string()), len(s.ids)) for s in shards]
        return Listing(split, classes, pa.concat_arrays([s.ids for s in shards]), labels, pa.concat_arrays(tags))

    def check_copies(self, train: Listing, test: Listing) -> None:
        """Names, on a disk, validation images that are training images. Refuses many."""
        if open_root(self.path).is_local:
            check_read_copies(self, train, test)

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        """Keeps one shard open at a time and holds one image, or what one request brought."""
        root = Location.of(self.path)
        fs, base = root.filesystem()
        for name, wanted in groupby(map(_split_id, ids), key=lambda parts: parts[0]):
            try:
                with fs.open_input_file(f"{base}/{name}") as file:
                    archive = ReadWindow(file, file.size(), _ahead(root))
                    for _, key, start in wanted:
                        yield _image(archive, key, start)
            except (pa.ArrowException, OSError, TarFault) as e:
                raise StageFailed(
                    f"source: {base}/{name} was listed but cannot be read: {fault_text(e)}; put it back, "
                    "or start again with the images as they are now"
                ) from None


def _ahead(root: Location) -> int:
    return AHEAD if root.is_local else AHEAD_REMOTE


def _split_id(image_id: str) -> tuple[str, str, int]:
    rest, _, start = image_id.rpartition("@")
    name, _, key = rest.partition("#")
    return name, key, int(start)


def _image(archive: ReadWindow, key: str, start: int) -> bytes:
    member = member_at(archive, start)
    if key_of(member.name)[0] != key:
        raise TarFault(f"{member.name!r} lies where {key!r} was; fetch it again")
    return archive.read(member.data, member.size)


# ---- finding the shards ----------------------------------------------------------------------------------------------


def _shards(root: Location, split: str) -> tuple[str, Sequence[pafs.FileInfo]]:
    """The split by the name that it has there, and its shards from the one place that holds them."""
    flat = _tars(root)
    if "{" in split:
        return split, [_named(root, flat, name) for name in _expand(split)]
    places = _places(root, flat, split)
    if not places:
        have = _splits(root, flat)
        split = split_there(split, have)
        places = _places(root, flat, split)
        if not places:
            raise _missing(root, flat, split, have)
    if len(places) > 1:
        raise BadInput(f"source: {root} holds the split {split!r} more than once ({' and '.join(places)}); keep one")
    [shards] = places.values()
    _check_complete(root, sorted(shards))
    return split, [shards[name] for name in sorted(shards)]


def _places(root: Location, flat: dict[str, pafs.FileInfo], split: str) -> dict[str, dict[str, pafs.FileInfo]]:
    """Where shards of the split lie, by pattern."""
    return {
        pattern: shards
        for pattern, shards in (
            (f"{split}-*.tar", {n: i for n, i in flat.items() if n.startswith(f"{split}-")}),
            (f"{split}/*.tar", {f"{split}/{n}": i for n, i in _tars(root, split).items()}),
        )
        if shards
    }


def _missing(root: Location, flat: dict[str, pafs.FileInfo], split: str, have: Sequence[str]) -> BadInput:
    """The error for a split that is not there; archives of a class each are one split themselves."""
    if any(map(class_archive, flat)):
        path, name = str(root).rpartition("/")[::2]
        return BadInput(
            f"source: {root} holds an archive a class, which is a single split; give source.path={path} "
            f"source.train={name} source.val=split:0.2, or source.val=NAME for one beside it"
        )
    return no_split(root, split, have)


def _files(root: Location, folder: str = "") -> dict[str, pafs.FileInfo]:
    """The files directly in the folder by name, hidden ones left out."""
    fs, base = root.filesystem()
    entries = infos(fs, f"{base}/{folder}".rstrip("/"))
    return {i.base_name: i for i in entries if i.type == pafs.FileType.File and not i.base_name.startswith((".", "_"))}


def _tars(root: Location, folder: str = "") -> dict[str, pafs.FileInfo]:
    """Shards directly in the folder by name. Compressed ones are refused: they cannot be read at random, or bounded."""
    files = _files(root, folder)
    for name in sorted(files):
        if name.endswith(COMPRESSED):
            raise BadInput(
                f"source: {root}/{folder + '/' if folder else ''}{name} is compressed and cannot be read at "
                "random; make it a plain .tar (images are compressed already) and remove it"
            )
    return {n: i for n, i in files.items() if n.endswith(".tar")}


def _named(root: Location, flat: dict[str, pafs.FileInfo], name: str) -> pafs.FileInfo:
    folder, _, base = name.rpartition("/")
    shard = (_tars(root, folder) if folder else flat).get(base)
    if shard is None:
        raise BadInput(f"source: {root} has no shard {name}; fetch it or correct the braces of the split's name")
    return shard


def _expand(split: str) -> Sequence[str]:
    """`train-{00000..00009}` to the names of its shards, zeros kept."""
    match = BRACES.fullmatch(split)
    if match is None or "{" in match["head"] or ".." in match["head"].split("/"):
        raise BadInput(f"source: the split {split!r} is no brace pattern; write one such as train-{{00000..00009}}")
    first, last, tail = int(match["first"]), int(match["last"]), match["tail"].removesuffix(".tar")
    if not first <= last < first + SHARDS:
        raise BadInput(
            f"source: the split {split!r} counts from {first} to {last}; it must count upwards, and to "
            f"{SHARDS} shards at most"
        )
    return [f"{match['head']}{i:0{len(match['first'])}d}{tail}.tar" for i in range(first, last + 1)]


def splits_there(root: Location) -> list[str]:
    """Names of the splits in `source.path`."""
    return _splits(root, _tars(root))


def _splits(root: Location, flat: dict[str, pafs.FileInfo]) -> list[str]:
    """Names of the splits that are there, for the error."""
    folders = (i.base_name for i in root.infos() if i.type == pafs.FileType.Directory)
    holding = {f for f in folders if any(n.endswith(".tar") for n in _files(root, f))}
    return sorted({n.rpartition("-")[0] for n in flat if "-" in n} | holding)


def _check_complete(root: Location, names: Sequence[str]) -> None:
    """Shards that are numbered alike leave no number out: a download with a hole is not a smaller set."""
    if all(class_archive(n.rpartition("/")[2]) for n in names):
        return
    numbers = [m for m in map(NUMBERED.fullmatch, names) if m]
    if len(numbers) != len(names) or len({(m["head"], len(m["index"])) for m in numbers}) != 1:
        return
    have = {int(m["index"]) for m in numbers}
    for index in range(min(have), max(have)):
        if index not in have:
            missing = f"{numbers[0]['head']}{index:0{len(numbers[0]['index'])}d}.tar"
            raise BadInput(
                f"source: {root}: {missing} is missing between its neighbours; fetch it, or name the shards "
                "to use with braces, as in source.train=train-{00000..00009}"
            )
