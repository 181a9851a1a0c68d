"""One door to storage: a local path, s3:// or gs://, through pyarrow.fs. Whole objects only; no rename, no locks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

from raydistill.errors import BadInput, StageFailed, one_line, refuse_secrets

OBJECT_STORES = ("s3", "gs", "gcs")
PIECE = 8 * 2**20  # bytes
GIVEN_UP_S = ("retry_limit_seconds", "60")  # Google's client would ask a store that is gone for a quarter of an hour
OPTIONS = {"s3": ("allow_delayed_open", "true"), "gs": GIVEN_UP_S, "gcs": GIVEN_UP_S}
# What a run was asked for, what went wrong, and the copies of both in seals: files that are made 0600.
PRIVATE = re.compile(
    r"/(config\.yaml|logs/([^/]+|placement/[^/]+)|tracking/[^/]+/[^/]+|seals/(config\.yaml|(logs|tracking)%2F[^/]+)\.json)$"
)
# What a browser shows in place of keeping it as a file; an object store tells it what the object is.
CONTENT = {".html": {"Content-Type": "text/html; charset=utf-8"}}
FAULTS = (OSError, pa.ArrowException)  # Arrow's own are what a store answers but for 403, 404 and 503, such as a 400
LOOKS = 10  # how often something is tried that another process can spoil by making or removing a folder meanwhile


def check_lasting(key: str, value: str | None, uris: bool = True) -> None:
    """Raises BadInput for a place that a submitted job would lose: its working directory is thrown away."""
    relative = value and "://" not in value and not os.path.isabs(os.path.expanduser(value))
    if relative and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise BadInput(
            f"{key}={value} is relative, and a submitted job's working directory is thrown away; give an absolute path "
            f"that every node sees{', or s3:// or gs://' if uris else ''}"
        )


class CannotRead(StageFailed, OSError):
    """Something is there that cannot be read: a folder, no rights, a store that does not answer. An OSError as well."""


class NoFile(CannotRead):
    """A folder lies where a file belongs. What cannot be read otherwise may be whole, and is not to be thrown away."""


@dataclass(frozen=True)
class Location:
    """A folder or object. `uri` is what the user gave (made absolute); it travels to workers, which reopen it."""

    uri: str

    @classmethod
    def of(cls, text: str) -> Location:
        """Raises BadInput for a URI that holds credentials, which are the environment's, that names nothing, or whose
        names end where a fragment begins: all below it would be one and the same object."""
        refuse_secrets("location", text)
        if "://" not in text:
            return cls(os.path.abspath(os.path.expanduser(text)))
        if "#" in text:
            raise BadInput(
                f"cannot open {text}: # ends the path of a URI; write %23 for it: {text.replace('#', '%23')}"
            )
        head, mark, options = text.partition("?")
        if head.rstrip("/").endswith(":"):
            raise BadInput(f"cannot open {text}: nothing follows {head}; give a local path, s3://BUCKET or gs://BUCKET")
        return cls(f"{head.rstrip('/')}{mark}{options}")

    def __truediv__(self, name: str) -> Location:
        if self.is_local:
            return Location(f"{self.uri}/{name}")
        head, mark, options = self.uri.partition("?")
        for sign in "%?#":  # they have a meaning in a URI
            name = name.replace(sign, f"%{ord(sign):02X}")
        return Location(f"{head}/{name}{mark}{options}")

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part of the path; what a URI holds besides (an endpoint, keys) is nobody's business."""
        return os.path.basename(self.uri if self.is_local else unquote(urlsplit(self.uri).path))

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """The file system and this location's path in it. Raises BadInput for a URI that cannot be opened."""
        if self.is_local:
            return pafs.LocalFileSystem(), self.uri
        try:
            parts = urlsplit(self.uri)
            if parts.scheme in OBJECT_STORES:
                bucket = parts.netloc.rpartition("@")[2]
                return _object_store(parts.scheme, parts.netloc, parts.query), f"{bucket}{unquote(parts.path)}"
            return pafs.FileSystem.from_uri(self.uri)
        except (ValueError, OSError) as e:
            raise BadInput(f"cannot open {self.uri}: {one_line(e)}; give a local path, s3:// or gs://") from e

    def read(self) -> bytes:
        """The whole object. Raises FileNotFoundError, CannotRead."""
        fs, path = self.filesystem()
        with self.reading(), fs.open_input_stream(path) as f:
            return f.read()

    def digest(self) -> tuple[int, str]:
        """Bytes and SHA-256 of the object, read in pieces. Raises FileNotFoundError, CannotRead."""
        fs, path = self.filesystem()
        size, sha256 = 0, hashlib.sha256()
        with self.reading(), fs.open_input_stream(path) as f:
            while piece := f.read(PIECE):
                size += len(piece)
                sha256.update(piece)
        return size, sha256.hexdigest()

    def write(self, data: bytes) -> None:
        """Writes the whole object. A torn local write is caught by digests; object stores have none.

        On a disk, files of a run that tell what was asked for are their owner's alone (PRIVATE). Raises StageFailed.
        """
        fs, path = self.filesystem()
        try:
            if isinstance(fs, pafs.LocalFileSystem):
                _write_file(path, data)
            else:
                with fs.open_output_stream(path, metadata=CONTENT.get(os.path.splitext(path)[1])) as f:
                    f.write(data)
        except FAULTS as e:
            raise StageFailed(f"cannot write {self.uri}: {self._why(e)}, then run the same command again") from e

    def replace(self, data: bytes) -> None:
        """As `write`, for what others read at any moment: on a disk they find the old or the new, and never a part.

        A process that is killed may leave `NAME~` there. Raises StageFailed, OSError.
        """
        if not self.is_local:
            return self.write(data)
        beside = Location(f"{self.uri}~")
        beside.write(data)
        os.replace(beside.uri, self.uri)

    def exists(self) -> bool:
        fs, path = self.filesystem()
        return fs.get_file_info(path).type != pafs.FileType.NotFound

    def has_bucket(self) -> bool:
        """Whether the bucket is there, for an object store; true for everything else, and if we may not ask."""
        fs, path = self.filesystem()
        if fs.type_name not in ("s3", "gcs"):
            return True
        try:
            return fs.get_file_info(path.partition("/")[0]).type != pafs.FileType.NotFound
        except OSError:
            return True

    def list(self) -> list[str]:
        """Names (not paths) directly below, sorted; empty if there is no such folder."""
        return sorted(i.base_name for i in self.infos())

    def list_by_age(self) -> Sequence[str]:
        """Names directly below, the oldest first; equally old ones by name."""
        return [i.base_name for i in sorted(self.infos(), key=lambda i: (i.mtime_ns or 0, i.base_name))]

    def infos(self) -> Sequence[pafs.FileInfo]:
        """What is directly below, in no particular order; empty if there is no such folder. Raises CannotRead."""
        with self.reading("list"):
            return infos(*self.filesystem())

    def size(self) -> int | None:
        """Bytes of the object, or None if it is not there."""
        fs, path = self.filesystem()
        info = fs.get_file_info(path)
        return info.size if info.type == pafs.FileType.File else None

    def delete(self) -> None:
        """Removes one object; no error if it is gone already. A folder is left as it is. Raises StageFailed."""
        fs, path = self.filesystem()
        try:
            fs.delete_file(path)
        except FileNotFoundError:
            return
        except FAULTS as e:
            raise StageFailed(f"cannot remove {self.uri}: {self._why(e)}, then run the same command again") from e

    @contextlib.contextmanager
    def reading(self, verb: str = "read") -> Iterator[None]:
        """What goes wrong in the block becomes CannotRead, or NoFile; what is not there stays FileNotFoundError."""
        try:
            yield
        except FileNotFoundError:
            raise
        except FAULTS as e:
            kind = NoFile if verb == "read" and self._is_folder(e) else CannotRead
            fault = kind(f"cannot {verb} {self.uri}: {self._why(e)}, then run the same command again")
            fault.errno = getattr(e, "errno", None)
            raise fault from e

    def _is_folder(self, e: OSError | pa.ArrowException) -> bool:
        return self.is_local and os.path.isdir(self.uri) and not isinstance(e, PermissionError)

    def _why(self, e: OSError | pa.ArrowException) -> str:
        """What went wrong and what to do about it."""
        if self.is_local:
            if self._is_folder(e):
                return "it is a folder where a file belongs; move it away"
            for path in (self.uri, *map(str, Path(self.uri).parents)):
                if os.path.isfile(path) and (path != self.uri or isinstance(e, NotADirectoryError)):
                    return f"{path} is a file where a folder belongs; move it away"
        return f"{reason(e)}; {remedy(e)}"


def infos(fs: pafs.FileSystem, path: str, recursive: bool = False) -> Sequence[pafs.FileInfo]:
    """What is directly below a path, or anywhere below, in no particular order; empty if there is no such folder.

    pyarrow looks twice on a disk: a folder that comes between is an error to it, and what goes is listed as not found.
    Raises BadInput for a name that is not UTF-8, which Arrow lists and cannot tell.
    """
    if fs.type_name == "gcs" and not recursive:
        return _with_folders(path, infos(fs, path, recursive=True))
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
    for _ in range(LOOKS):
        try:
            listed = [i for i in fs.get_file_info(selector) if i.type != pafs.FileType.NotFound]
        except FileNotFoundError:
            continue
        _check_names(path, listed)
        return listed
    return []  # it comes and goes


def _check_names(path: str, listed: Sequence[pafs.FileInfo]) -> None:
    try:
        [i.base_name for i in listed]
    except UnicodeDecodeError as e:
        raise BadInput(f"a name below {path} is not UTF-8: {os.fsdecode(e.object)!a}; rename it") from None


def _with_folders(path: str, below: Sequence[pafs.FileInfo]) -> list[pafs.FileInfo]:
    """What is directly below a path, of what is anywhere below: of Google's folders Arrow lists but those that somebody
    has made, and none that is there through the objects in it."""
    files, folders = [], set()
    for info in below:
        name, mark, _ = info.path.removeprefix(f"{path.rstrip('/')}/").partition("/")
        if mark or info.type == pafs.FileType.Directory:
            folders.add(name)
        else:
            files.append(info)
    return [*files, *(pafs.FileInfo(f"{path.rstrip('/')}/{name}", pafs.FileType.Directory) for name in sorted(folders))]


@lru_cache(maxsize=64)
def _object_store(scheme: str, authority: str, options: str) -> pafs.FileSystem:
    """Opened once a process: a client and its connections cost more than a small object.

    Arrow's S3 begins a multi-part upload for every object, three requests; with a delayed open small ones take one.
    """
    return pafs.FileSystem.from_uri(f"{scheme}://{authority}/?{with_defaults(scheme, options)}")[0]


def with_defaults(scheme: str, options: str) -> str:
    """The options of an object store's URI, with ours where it says nothing."""
    name, value = OPTIONS[scheme]
    return options if name in options else "&".join(filter(None, [options, f"{name}={value}"]))


def _write_file(path: str, data: bytes) -> None:
    """Writes without truncating first: an equal file that is written again stays whole at every moment."""
    private = PRIVATE.search(path)
    with os.fdopen(_open_in_folder(path, 0o600 if private else 0o666), "wb") as f:
        if private:
            with contextlib.suppress(PermissionError):  # an older version, or another user, may have made the file
                os.fchmod(f.fileno(), 0o600)
        f.write(data)
        f.truncate(len(data))
        f.flush()
        os.fsync(f.fileno())


def _open_in_folder(path: str, mode: int) -> int:
    """A descriptor for writing. The folder is made, again if another process took it away while it was empty."""
    for _ in range(LOOKS - 1):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return _make_and_open(path, mode)
    return _make_and_open(path, mode)


def _make_and_open(path: str, mode: int) -> int:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT, mode)


def reason(e: OSError | ValueError | pa.ArrowException) -> str:
    return os.strerror(e.errno) if isinstance(e, OSError) and e.errno else one_line(e)


def remedy(e: OSError | pa.ArrowException) -> str:
    """What to do about an operating-system error."""
    number = getattr(e, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space" in str(e):
        return "free some space or choose another run_dir"
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return "make it writable or choose another run_dir"
    return "check the path"
