"""Errors a user can act on. Each message is one line: what is wrong, where, what to do.

The command line prints the line and exits with `exit_code`; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import re


class RaydistillError(Exception):
    """Base of all expected errors. The run stays resumable: the same command continues it."""

    exit_code = 1


class BadInput(RaydistillError):
    """Knowable before any work: configuration, missing files, contradictory values. Nothing has been written."""

    exit_code = 2


class StageFailed(RaydistillError):
    """Something went wrong on the way: disk full, too many broken images, a worker that keeps dying."""


class CorruptArtifact(RaydistillError):
    """A stored file is missing, truncated or altered; the message names the file, its key and the remedy."""


class DeterminismFault(RaydistillError):
    """Two attempts on the same kind of device committed different bytes for one key."""


class BrokenImage(Exception):
    """One image cannot be used. Caught per image: it is quarantined and counted, never silently dropped."""


def one_line(text: object) -> str:
    """Folds any message to a single printable line, so that an error never spills over several."""
    return printable(" ".join(str(text).split()))


# Controls (C0, C1, DEL), what is invisible or turns the direction of text, and halves of characters: a name that holds
# them could move the cursor of a terminal, or read as another name. The joiners of emoji and Indic scripts stay.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Text as one line that a terminal, a table or a page can show: what is not to be seen is escaped (\\x1b, \\n)."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)
