"""Models by their id on the Hugging Face hub: taken from its cache, or fetched into it before anything is written.

Workers never come here: they are given the folder in the cache. Only config files and safetensors are fetched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from raydistill.errors import BadInput
from raydistill.models import denoiser, published, text_generator, vae
from raydistill.models.checkpoint import check_weights, in_its_variant, odd_weights, variants_of
from raydistill.store.hub import HubRepository, is_id, refuse_revision


@dataclass(frozen=True)
class Layout:
    """Files of one way in which a model lies in a repository, which is known by the first of them.

    The spec says what to do without those that it `may_lack`.
    """

    files: tuple[str, ...]
    may_lack: frozenset[str] = frozenset()

    @property
    def weights(self) -> list[str]:
        return [f for f in self.files if f.endswith(".safetensors")]

    def lacks(self, folder: Path) -> list[str]:
        return [f for f in self.files if f not in self.may_lack and not (folder / in_its_variant(folder, f)).is_file()]


LAYOUTS = {
    "vae": (Layout(tuple(vae.FILES)), Layout(tuple(f"vae/{f}" for f in vae.FILES))),
    "generator": (
        Layout(tuple(denoiser.FILES), frozenset({"training.json"})),
        Layout(tuple(text_generator.FILES), frozenset(text_generator.EITHER)),
    ),
}


@dataclass(frozen=True)
class Found:
    """A model's folder (None = the one in the package); for one of the hub, its id and the commit it is of."""

    folder: str | None
    name: str | None = None
    commit: str | None = None

    def __str__(self) -> str:
        return f"{self.name} at commit {self.commit}, in {self.folder}" if self.name else str(self.folder)


def find(section: Literal["vae", "generator"], path: str | None, revision: str | None) -> Found:
    """Where the files of a model lie; fetches them if need be. A complete copy in the cache is used without a network.

    Raises BadInput saying what to do if they cannot be had.
    """
    if path is not None and is_id(path):
        return Repository(section, path, revision or published.REVISIONS.get(path)).find()
    if revision is not None:
        refuse_revision(section, revision, path)
    return Found(path)


@dataclass(frozen=True)
class Repository(HubRepository):
    """A model on the hub."""

    section: Literal["vae", "generator"]
    variants: tuple[str, ...] = ()  # of weights that it holds under no other name, or patterns of them

    def find(self) -> Found:
        """Raises BadInput."""
        folder = self.cached()
        if folder is None or self._layout(folder).lacks(folder):
            folder = self._completed()
        layout = self._layout(folder)
        try:
            for file in layout.weights:
                check_weights((folder / file).parent, self.key, os.path.basename(file))
        except BadInput as e:
            files = [in_its_variant(folder, f) for f in layout.files]
            raise BadInput(f"{e}: {self.command(files)} --force-download") from None
        return Found(str(folder), self.name, folder.name)

    @property
    def files(self) -> list[str]:
        """Of all layouts: which one it is shows when they are there."""
        return [*dict.fromkeys(f for layout in LAYOUTS[self.section] for f in layout.files), *self.variants]

    def _layout(self, folder: Path) -> Layout:
        layouts = LAYOUTS[self.section]
        return next((layout for layout in layouts if (folder / layout.files[0]).is_file()), layouts[0])

    def _completed(self) -> Path:
        """A whole copy from the network."""
        from huggingface_hub import HfApi

        folder = self.fetched()
        layout = self._layout(folder)
        lacks = layout.lacks(folder)
        if not lacks:
            return folder
        try:
            listed = HfApi().model_info(self.name, revision=folder.name, timeout=10).siblings or []
        except Exception as e:  # without a network the client may hand out an unfinished copy
            patterns = tuple(f.replace(".safetensors", ".*.safetensors") for f in layout.weights if f in lacks)
            replace(self, variants=patterns).refuse_without_network(f"without {lacks[0]} in", e)
        files = [f.rfilename for f in listed]
        variants = {f: _variants(f, files) for f in layout.weights if f in lacks}
        if not self.variants and set(variants) == set(lacks) and all(len(v) == 1 for v in variants.values()):
            return replace(self, variants=tuple(v for (v,) in variants.values()))._completed()
        for file in variants:
            beside = [f for f in files if os.path.dirname(f) == os.path.dirname(file)]
            odd = odd_weights(beside, os.path.basename(file))
            if odd:
                raise BadInput(
                    f"{self.key}: in {self.called}, {odd}, and give the folder with {self.key}=DIR, or a "
                    f"{self.section}.revision that holds one (conversions are often offered as refs/pr/N)"
                )
        raise BadInput(
            f"{self.key}: {self.called} holds no {lacks[0]}, so it is no model of the layout that is needed "
            "(docs/bring-your-own.md); give another"
        )


def _variants(file: str, files: Sequence[str]) -> list[str]:
    """The variants of a file of a repository that are among `files`, by their paths there."""
    folder, name = os.path.split(file)
    names = variants_of(name, (os.path.basename(f) for f in files if os.path.dirname(f) == folder))
    return [os.path.join(folder, n) for n in names]
