"""Tar archives read at random: where each file lies, by its headers alone. Whatever is not a plain file is refused.

The standard library's tarfile keeps every header of an archive, reads extended headers of any size and takes damage
after the first header for the end. Archives come from strangers: here every header is checked, what is read of one is
bounded, and an archive ends where its end is written or is named as truncated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BLOCK = 512
MAX_FILE = 2**28  # bytes; a file is held in memory when it is read, and no image of sane size is larger
MAX_EXTENDED = 2**20  # bytes of an extended header: a long name, or a few times and owners
PADDING = 2**16  # bytes after the end that are looked at; writers fill up to a multiple of 10 KiB with zeros
EXTENDED = 4  # extended headers that one file may have: names and links of the GNU kind, attributes of the POSIX kind
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
PLAIN = (b"0", b"\0", b"7")
KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
OTHER_FORMATS = {
    b"PK\3\4": "a zip archive",
    b"PK\5\6": "a zip archive",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"7z\xbc\xaf": "a 7z archive",
}


class TarFault(ValueError):
    """The archive cannot be used: what is wrong, and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file: `start` is where its headers begin, `data` where its bytes do, `end` where the next file starts."""

    name: str
    start: int
    data: int
    size: int

    @property
    def end(self) -> int:
        return self.data + _padded(self.size)


class ReadWindow:
    """Random access to a file of `size` bytes; each request is for `ahead` bytes or more, and the last one is kept."""

    def __init__(self, file: Any, size: int, ahead: int) -> None:
        self.file, self.size, self.ahead = file, size, ahead
        self.start, self.held = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes at `offset`, fewer than `length` only where the file ends."""
        length = max(0, min(length, self.size - offset))
        begin = offset - self.start
        if not (begin >= 0 and begin + length <= len(self.held)):
            wanted = min(max(length, self.ahead), self.size - offset)
            self.start, self.held, begin = offset, self.file.read_at(wanted, offset) if length else b"", 0
        return self.held[begin : begin + length]


def members(archive: ReadWindow) -> Iterator[Member]:
    """Every plain file, in the order of the archive. Raises TarFault for the first thing that is wrong."""
    check_format(archive)
    offset = 0
    while True:
        member, offset = _next(archive, offset)
        if member is not None:
            yield member
        elif offset < 0:
            return


def member_at(archive: ReadWindow, start: int) -> Member:
    """The plain file whose headers begin at `start`. Raises TarFault if there is none."""
    member, _ = _next(archive, start)
    if member is None:
        raise TarFault(f"no file begins at byte {start}; fetch it again")
    return member


def check_format(archive: ReadWindow) -> None:
    """Raises TarFault for what is no plain tar by its first bytes."""
    begin = archive.read(0, BLOCK)
    if not begin:
        raise TarFault("it is empty; fetch it again")
    for magic, what in OTHER_FORMATS.items():
        if begin.startswith(magic):
            raise TarFault(f"it is {what}, not a plain tar; unpack it and pack plain tar shards")


def _next(archive: ReadWindow, start: int) -> tuple[Member | None, int]:
    """The file at `start`, or None for a folder or the end, and where to look next: -1 after the end."""
    offset, long_name, pax = start, None, {}
    for _ in range(EXTENDED + 1):
        header = archive.read(offset, BLOCK)
        if len(header) < BLOCK:
            raise TarFault(f"it is truncated: it stops after {archive.size} bytes without an end; fetch it again")
        if not any(header):
            _check_end(archive, offset)
            return None, -1
        _check_sum(header, offset)
        kind, size, data = header[156:157], _size(header), offset + BLOCK
        if kind not in (b"L", b"K", b"x", b"g"):
            break
        extended = _extended(archive, data, size)
        if kind == b"L":
            long_name = _text(extended.rstrip(b"\0"))
        elif kind in b"xg":
            pax.update(_attributes(extended, kind == b"g"))
        offset = data + _padded(size)
    else:
        raise TarFault(f"the file at byte {start} has more than {EXTENDED} extended headers; pack it again")
    name = _name(pax.get("path") or long_name or _plain_name(header))
    if kind == b"5":
        return None, data
    if kind in PLAIN and name.endswith("/"):  # a folder of the oldest kind
        return None, data
    if kind not in PLAIN or any(k.startswith("GNU.sparse") for k in pax):
        what = KINDS.get(b"S" if kind in PLAIN else kind, f"of the unknown kind {kind!a}")
        raise TarFault(f"{name!r} is {what}; pack plain files only")
    if "size" in pax:
        size = _number(pax["size"])
    if size > MAX_FILE:
        raise TarFault(f"{name!r} declares {size} bytes, more than the {MAX_FILE} that a file may have; leave it out")
    member = Member(name, start, data, size)
    if data + size > archive.size:
        raise TarFault(
            f"it is truncated: {name!r} ends {data + size - archive.size} bytes after the archive does; fetch it again"
        )
    return member, member.end


def _check_end(archive: ReadWindow, offset: int) -> None:
    """Nothing but padding follows the end: of archives strung together, others would read the first alone."""
    if any(archive.read(offset, PADDING)):
        raise TarFault(f"more follows its end at byte {offset}; pack one archive, not several strung together")


def _check_sum(header: bytes, offset: int) -> None:
    """Every header holds the sum of its own bytes, taken with the place of the sum filled with spaces."""
    text = header[148:156].strip(b" \0")
    if not re.fullmatch(rb"[0-7]+", text) or int(text, 8) != sum(header) - sum(header[148:156]) + 8 * 32:
        where = "its beginning" if offset == 0 else f"byte {offset}"
        raise TarFault(f"it is damaged or no tar: what is at {where} is no header; fetch it again")


def _size(header: bytes) -> int:
    """Octal digits, or a big-endian number after the byte 128."""
    field = header[124:136]
    if field[0] == 128:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if text and not re.fullmatch(rb"[0-7]+", text):
        raise TarFault(f"it is damaged: a header gives the size {field!a}; fetch it again")
    return int(text, 8) if text else 0


def _extended(archive: ReadWindow, data: int, size: int) -> bytes:
    if size > MAX_EXTENDED:
        raise TarFault(f"an extended header declares {size} bytes, more than {MAX_EXTENDED}; pack it again")
    content = archive.read(data, size)
    if len(content) < size:
        raise TarFault("it is truncated inside an extended header; fetch it again")
    return content


def _attributes(content: bytes, for_all: bool) -> dict[str, str]:
    """POSIX attributes: records `LENGTH KEY=VALUE\\n`. One that holds for all files may not rename or resize them."""
    attributes: dict[str, str] = {}
    while content.strip(b"\0"):
        match = re.match(rb"(\d{1,7}) ([^=\n]+)=", content)
        length = int(match[1]) if match else 0
        if match is None or not match.end() < length <= len(content) or content[length - 1 : length] != b"\n":
            raise TarFault("it is damaged: an extended header cannot be read; fetch it again")
        key = _text(match[2])
        if for_all and (key in ("path", "size") or key.startswith("GNU.sparse")):
            raise TarFault(f"it gives one {key} to all its files; pack it again")
        if key in ("path", "size") or key.startswith("GNU.sparse"):
            attributes[key] = _text(content[match.end() : length - 1])
        content = content[length:]
    return attributes


def _plain_name(header: bytes) -> str:
    name, prefix = _until_zero(header[:100]), b""
    if header[257:263] == b"ustar\0":  # GNU's own kind keeps other things there
        prefix = _until_zero(header[345:500])
    return _text(prefix + b"/" + name if prefix else name)


def _name(name: str) -> str:
    """The path without a leading ./ if it stays below the folder that it would be unpacked in."""
    if CONTROL.search(name):
        raise TarFault(f"the name {name[:200]!a} has control characters; rename the file")
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise TarFault(f"the name {name[:200]!r} leads out of the archive; pack relative paths without ..")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise TarFault(f"the name {data[:200]!a} is not UTF-8; rename the file") from None


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,40}", text):
        raise TarFault(f"it is damaged: an extended header gives the size {text[:40]!a}; fetch it again")
    return int(text)


def _until_zero(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
