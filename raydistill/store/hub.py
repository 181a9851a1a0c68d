"""Repositories on the Hugging Face hub: taken from its cache, or fetched into it, and what is wrong in one line.

Only the driver comes here; workers are given the folder in the cache.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from raydistill.errors import BadInput, one_line

ID = re.compile(r"(?=.{3,96}$)(?!.*(?:--|\.\.|\.git$))\b[\w.-]+\b/\b[\w.-]+\b", re.ASCII)  # as the hub does


def is_id(path: str | None) -> bool:
    """Whether `path` means a repository on the hub: OWNER/NAME, and nothing of that name lies here."""
    return path is not None and ID.fullmatch(path) is not None and not os.path.lexists(path)


def refuse_revision(section: str, revision: str, path: str | None) -> NoReturn:
    """Raises BadInput: a revision without an id."""
    what = "is not set" if path is None else f"is the local {path}"
    raise BadInput(
        f"{section}.revision={revision} goes with an id on the hub, OWNER/NAME, but {section}.path {what}; leave it out"
    )


@dataclass(frozen=True)
class HubRepository:
    """A repository that `section`.path names; `revision` None is its main branch."""

    section: str
    name: str
    revision: str | None

    kind: ClassVar[str] = "model"
    in_words: ClassVar[str] = "model"

    @property
    def files(self) -> Sequence[str]:
        """Names, or patterns, of the files that are fetched."""
        raise NotImplementedError

    @property
    def included(self) -> Sequence[str]:
        """What of them the command that fills the cache names; all files if nothing."""
        return self.files

    @property
    def key(self) -> str:
        return f"{self.section}.path"

    @property
    def called(self) -> str:
        return self.name + (f" at revision {self.revision}" if self.revision else "")

    @property
    def page(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'' if self.kind == 'model' else f'{self.kind}s/'}{self.name}"

    def command(self, files: Sequence[str]) -> str:
        """The command that fills the cache."""
        words = ["hf", "download", self.name]
        words += [] if self.kind == "model" else ["--repo-type", self.kind]
        words += ["--revision", self.revision] if self.revision else []
        return shlex.join([*words, *(w for f in files for w in ("--include", f))])

    def snapshot(self, local: bool) -> Path:
        """Raises what the client does: its own kinds, those of its HTTP library, and those of the disk."""
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                self.name,
                repo_type=self.kind,
                revision=self.revision,
                allow_patterns=list(self.files),
                local_files_only=local,
            )
        )

    def cached(self) -> Path | None:
        """The copy in the cache, whole or not."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return self.snapshot(local=True)
        except LocalEntryNotFoundError:
            return None

    def fetched(self) -> Path:
        """A copy from the network, which the client leaves out when HF_HUB_OFFLINE is set. Raises BadInput."""
        try:
            return self.snapshot(local=False)
        except Exception as e:  # see snapshot
            self.refuse(e)

    def refuse(self, e: Exception) -> NoReturn:
        """What the client raised, as one line that says what to do."""
        from huggingface_hub import constants, errors

        if isinstance(e, errors.GatedRepoError):
            raise BadInput(
                f"{self.key}: {self.name} is given only to those who accept its terms; accept them at {self.page} and "
                "log in with `hf auth login`"
            ) from None
        if isinstance(e, errors.RepositoryNotFoundError):
            raise BadInput(
                f"{self.key}={self.name} is neither a folder here ({os.path.abspath(self.name)}) nor a "
                f"{self.in_words} that {constants.ENDPOINT} shows you; correct it (if it is a private one, log in with "
                "`hf auth login`)"
            ) from None
        if isinstance(e, errors.RevisionNotFoundError):
            raise BadInput(
                f"{self.section}.revision: {self.name} has no branch, tag or commit {self.revision}; "
                f"see {self.page}/commits/main"
            ) from None
        if isinstance(e, errors.IncompleteSnapshotError):
            self.refuse_without_network("only in part in", e.__cause__)
        if isinstance(e, errors.LocalEntryNotFoundError):
            self.refuse_without_network("not in", e.__cause__)
        raise BadInput(
            f"{self.key}: {self.called} cannot be fetched into {constants.HF_HUB_CACHE} "
            f"({type(e).__name__}: {one_line(e)}); run the same command again, or choose a cache with HF_HOME=DIR"
        ) from None

    def refuse_without_network(self, cached: str, cause: BaseException | None) -> NoReturn:
        """`cached` says how it is in the cache, `cause` why the hub was not asked."""
        from huggingface_hub import constants

        why = "HF_HUB_OFFLINE is set"
        if not constants.is_offline_mode():
            why = f"{constants.ENDPOINT} cannot be reached ({one_line(cause)})"
        raise BadInput(
            f"{self.key}={self.called} is no folder here ({os.path.abspath(self.name)}), and as an id on the hub it "
            f"is {cached} the cache {constants.HF_HUB_CACHE} while {why}; run `{self.command(self.included)}` where "
            f"the hub can be reached and bring the cache (HF_HOME), or give any local folder with {self.key}=DIR"
        ) from None
