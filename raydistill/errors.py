"""Errors a user can act on. Each message is one line: what is wrong, where, what to do.

The command line prints the line and exits with `exit_code`; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


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
    """Folds any message to a single line, so that an error never spills over several."""
    return " ".join(str(text).split())
