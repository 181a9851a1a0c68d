"""A data set of the Hugging Face hub: `source.path` is OWNER/NAME, and the images are in the hub's cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.progress import say
from raydistill.sources.tree import SUFFIXES
from raydistill.store.hub import HubRepository, is_id, refuse_revision

TABLES = ("*.json", "*.jsonl", "*.csv", "*.tsv", "*.txt")  # class names, labels, the state of Arrow files
IMAGES = ("*.parquet", "*.arrow", "*.tar", *(f"*{s}" for suffix in SUFFIXES for s in (suffix, suffix.upper())))
TREES = "trees"  # where the client keeps the listing of a commit, by which it knows a copy to be whole
CONVERTED = "refs/convert/parquet"  # what the hub makes of most data sets
NAMED = 5


@dataclass(frozen=True)
class ImageRepository(HubRepository):
    """A data set on the hub."""

    kind: ClassVar[str] = "dataset"
    in_words: ClassVar[str] = "data set"

    @property
    def files(self) -> Sequence[str]:
        return [*IMAGES, *TABLES]

    @property
    def included(self) -> Sequence[str]:
        return ()

    def find(self) -> Path:
        """Its folder in the cache, named by its commit. Raises BadInput."""
        folder = self.cached()
        if folder is None or not (folder.parents[1] / TREES / f"{folder.name}.json").is_file():
            folder = self.fetched()  # without a network the client gives what there is
        if not any(p.match(pattern) for p in folder.rglob("*") for pattern in IMAGES):
            self._refuse_content(folder)
        return folder

    def _refuse_content(self, folder: Path) -> None:
        from huggingface_hub import HfApi

        try:
            listed = HfApi().list_repo_files(self.name, repo_type=self.kind, revision=folder.name)
        except Exception as e:  # see HubRepository.snapshot
            self.refuse_without_network("without images in", e)
        shown = ", ".join(sorted(listed)[:NAMED]) + (" ..." if len(listed) > NAMED else "")
        raise BadInput(
            f"{self.key}: {self.called} holds no images that are read (it has {shown or 'no files'}); try "
            f"{self.section}.revision={CONVERTED}, the Parquet files that the hub makes of most data sets, or fetch "
            f"it, unpack it and give the folder with {self.key}=DIR"
        )


def check_cached(config: SourceConfig) -> None:
    """Raises BadInput for an id that would have to be fetched first."""
    if is_id(config.path) and ImageRepository("source", str(config.path), config.revision).cached() is None:
        raise BadInput(f"source.path={config.path}: a plan fetches nothing; give its folder with source.path=DIR")


def located(config: SourceConfig) -> SourceConfig:
    """The same with what an id stands for: its folder in the cache, and its commit. Raises BadInput."""
    if not is_id(config.path):
        if config.revision is not None:
            refuse_revision("source", config.revision, config.path)
        return config
    name = str(config.path)
    folder = ImageRepository("source", name, config.revision).find()
    if config.revision != folder.name:
        say("source", f"{name} at commit {folder.name}, in {folder}")
    return config.fetched(str(folder), folder.name)
