"""Errors a user can act on. Each message is one line: what is wrong, where, what to do.

The command line prints the line and exits with `exit_code`; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from raydistill.redact import holds_credentials, redact, variable_in


class RaydistillError(Exception):
    """Base of all expected errors. The run stays resumable: the same command continues it."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(redact(a) if isinstance(a, str) else a for a in args))


class BadInput(RaydistillError):
    """Knowable before any work: configuration, missing files, contradictory values. Nothing has been written."""

    exit_code = 2


class StageFailed(RaydistillError):
    """Something went wrong on the way: disk full, too many broken images, a worker that keeps dying."""


class OutOfMemory(StageFailed):
    """A device lacks memory for what it was asked to do at once."""


class CorruptArtifact(RaydistillError):
    """A stored file is missing, truncated or altered; the message names the file, its key and the remedy."""


class DeterminismFault(RaydistillError):
    """Two attempts on the same kind of device committed different bytes for one key."""


class BrokenImage(Exception):
    """One image cannot be used. Caught per image: it is quarantined and counted, never silently dropped."""


def one_line(text: object) -> str:
    """Folds any message to a single printable line without secrets, so that an error never spills over several."""
    return printable(" ".join(str(text).split()))


def first_of(names: Sequence[str], most: int) -> str:
    """'a, b and 3 more': so many names one by one, the others counted."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


# Controls (C0, C1, DEL), what is invisible or turns the direction of text, and halves of characters: a name that holds
# them could move the cursor of a terminal, or read as another name. The joiners of emoji and Indic scripts stay.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """Text as one line that a terminal, a table or a page can show, without secrets; see `escaped`."""
    return escaped(redact(text))


def escaped(text: str) -> str:
    """What is not to be seen is escaped (\\x1b, \\n)."""
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)


def refuse_secrets(what: str, text: str) -> None:
    """Raises BadInput if a text that would be kept and shown holds a secret; `what` says whose text it is."""
    if holds_credentials(text):
        raise BadInput(
            f"{what}: {text} holds credentials, and they would be kept in config.yaml and shown; give it without them "
            "and let the environment hold them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN), a "
            "profile or a role for s3://, GOOGLE_APPLICATION_CREDENTIALS for gs://, MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, for a tracking server"
        )
    variable = variable_in(text)
    if variable is not None:
        raise BadInput(
            f"{what}: {text} holds the value of the environment variable {variable}, and it would be kept in "
            f"config.yaml and shown; leave it out, or unset {variable} if it is no secret"
        )
