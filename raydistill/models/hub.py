"""Models by their id on the Hugging Face hub: taken from its cache, or fetched into it before anything is written.

Workers never come here: they are given the folder in the cache. Only config files and safetensors are fetched.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from raydistill.errors import BadInput, one_line
from raydistill.models import denoiser, published, text_generator, vae
from raydistill.models.checkpoint import check_weights, odd_weights

ID = re.compile(r"(?=.{3,96}$)(?!.*(?:--|\.\.|\.git$))\b[\w.-]+\b/\b[\w.-]+\b", re.ASCII)  # as the hub does


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
        return [f for f in self.files if f not in self.may_lack and not (folder / f).is_file()]


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


def is_id(path: str | None) -> bool:
    """Whether `path` means a model on the hub: OWNER/NAME, and nothing of that name lies here."""
    return path is not None and ID.fullmatch(path) is not None and not os.path.lexists(path)


def find(section: Literal["vae", "generator"], path: str | None, revision: str | None) -> Found:
    """Where the files of a model lie; fetches them if need be. A complete copy in the cache is used without a network.

    Raises BadInput saying what to do if they cannot be had.
    """
    if path is not None and is_id(path):
        return Repository(section, path, revision or published.REVISIONS.get(path)).find()
    if revision is not None:
        what = "is not set" if path is None else f"is the local {path}"
        raise BadInput(
            f"{section}.revision={revision} goes with an id on the hub, OWNER/NAME, but {section}.path {what}; "
            "leave it out"
        )
    return Found(path)


@dataclass(frozen=True)
class Repository:
    """A model on the hub; `revision` None is its main branch."""

    section: Literal["vae", "generator"]
    name: str
    revision: str | None

    def find(self) -> Found:
        """Raises BadInput."""
        folder = self._cached()
        if folder is None or self._layout(folder).lacks(folder):
            folder = self._fetched()
        layout = self._layout(folder)
        try:
            for file in layout.weights:
                check_weights((folder / file).parent, self._key, os.path.basename(file))
        except BadInput as e:
            raise BadInput(f"{e}: {self._command(layout.files)} --force-download") from None
        return Found(str(folder), self.name, folder.name)

    @property
    def _key(self) -> str:
        return f"{self.section}.path"

    @property
    def _files(self) -> list[str]:
        """Of all layouts: which one it is shows when they are there."""
        return list(dict.fromkeys(f for layout in LAYOUTS[self.section] for f in layout.files))

    def _layout(self, folder: Path) -> Layout:
        layouts = LAYOUTS[self.section]
        return next((layout for layout in layouts if (folder / layout.files[0]).is_file()), layouts[0])

    def _command(self, files: Sequence[str]) -> str:
        """The command that fills the cache."""
        words = ["hf", "download", self.name]
        words += ["--revision", self.revision] if self.revision else []
        return shlex.join([*words, *(w for f in files for w in ("--include", f))])

    def _snapshot(self, local: bool) -> Path:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(self.name, revision=self.revision, allow_patterns=self._files, local_files_only=local)
        )

    def _cached(self) -> Path | None:
        """The copy in the cache, whole or not."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return self._snapshot(local=True)
        except LocalEntryNotFoundError:
            return None

    def _fetched(self) -> Path:
        """A whole copy from the network, which the client leaves out when HF_HUB_OFFLINE is set."""
        from huggingface_hub import HfApi

        try:
            folder = self._snapshot(local=False)
        except Exception as e:  # the client raises its own kinds, those of its HTTP library, and those of the disk
            self._refuse(e)
        layout = self._layout(folder)
        lacks = layout.lacks(folder)
        if not lacks:
            return folder
        try:
            listed = HfApi().model_info(self.name, revision=folder.name, timeout=10).siblings or []
        except Exception as e:  # without a network the client may hand out an unfinished copy
            self._refuse_without_network(f"without {lacks[0]} in", e)
        files = [f.rfilename for f in listed]
        for file in (f for f in layout.weights if f in lacks):
            beside = [f for f in files if os.path.dirname(f) == os.path.dirname(file)]
            odd = odd_weights(beside, os.path.basename(file))
            if odd:
                raise BadInput(
                    f"{self._key}: in {self._called}, {odd}, and give the folder with {self._key}=DIR, or a "
                    f"{self.section}.revision that holds one (conversions are often offered as refs/pr/N)"
                )
        raise BadInput(
            f"{self._key}: {self._called} holds no {lacks[0]}, so it is no model of the layout that is needed "
            "(docs/bring-your-own.md); give another"
        )

    @property
    def _called(self) -> str:
        return self.name + (f" at revision {self.revision}" if self.revision else "")

    def _refuse(self, e: Exception) -> NoReturn:
        """What the client raised, as one line that says what to do."""
        from huggingface_hub import constants, errors

        page = f"{constants.ENDPOINT}/{self.name}"
        if isinstance(e, errors.GatedRepoError):
            raise BadInput(
                f"{self._key}: {self.name} is given only to those who accept its terms; accept them at {page} and log "
                "in with `hf auth login`"
            ) from None
        if isinstance(e, errors.RepositoryNotFoundError):
            raise BadInput(
                f"{self._key}={self.name} is neither a folder here ({os.path.abspath(self.name)}) nor a model that "
                f"{constants.ENDPOINT} shows you; correct it (if it is a private one, log in with `hf auth login`)"
            ) from None
        if isinstance(e, errors.RevisionNotFoundError):
            raise BadInput(
                f"{self.section}.revision: {self.name} has no branch, tag or commit {self.revision}; "
                f"see {page}/commits/main"
            ) from None
        if isinstance(e, errors.IncompleteSnapshotError):
            self._refuse_without_network("only in part in", e.__cause__)
        if isinstance(e, errors.LocalEntryNotFoundError):
            self._refuse_without_network("not in", e.__cause__)
        raise BadInput(
            f"{self._key}: {self._called} cannot be fetched into {constants.HF_HUB_CACHE} "
            f"({type(e).__name__}: {one_line(e)}); run the same command again, or choose a cache with HF_HOME=DIR"
        ) from None

    def _refuse_without_network(self, cached: str, cause: BaseException | None) -> NoReturn:
        """`cached` says how it is in the cache, `cause` why the hub was not asked."""
        from huggingface_hub import constants

        why = "HF_HUB_OFFLINE is set"
        if not constants.is_offline_mode():
            why = f"{constants.ENDPOINT} cannot be reached ({one_line(cause)})"
        raise BadInput(
            f"{self._key}={self._called} is no folder here ({os.path.abspath(self.name)}), and as an id on the hub it "
            f"is {cached} the cache {constants.HF_HUB_CACHE} while {why}; run `{self._command(self._files)}` where the "
            f"hub can be reached and bring the cache (HF_HOME), or give any local folder with {self._key}=DIR"
        ) from None
