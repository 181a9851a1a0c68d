"""The run directory: where a run keeps what it made, and what it refuses to be mixed with."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from raydistill.errors import BadInput
from raydistill.identity import canonical, digest
from raydistill.redact import holds_secret
from raydistill.store.artifact import Artifact
from raydistill.store.claims import Claim, hold
from raydistill.store.location import Location, reason

MARKER = "raydistill.json"
CONFIG, RESULT, PAGE, PRODUCT = "config.yaml", "result.json", "report.html", "distilled"
STUDY, BEST, STUDY_PAGE, TRIALS = "study.json", "best.yaml", "study.html", "trials.json"  # of a sweep
RATES = "rates.json"  # that a sweep counts seconds by
TRIAL_PAGES = "trials"  # a page each
PARTS = "logs/artifacts.json"  # STAGE/FINGERPRINT of all that the run stands on
TRAININGS = "trainings.json"  # what came of each training, from which runs are compared in pairs
TRACKING = "tracking"  # what is told of the run, and kept here first
PROBE = ".raydistill-probe-"  # files by which nodes prove that they see this folder; a killed run leaves them


class RunDir:
    """`root` holds the product, report and logs; `artifacts` holds stage outputs and may be shared by several runs."""

    def __init__(self, root: str, artifacts: str | None = None) -> None:
        self.root = Location.of(root)
        self.artifacts = Location.of(artifacts) if artifacts else self.root

    def check(self) -> None:
        """Refuses, before anything is written, a folder that is someone else's or that cannot be written."""
        for folder, key in {self.artifacts: "artifact_dir", self.root: "run_dir"}.items():
            if folder.is_local and os.path.isfile(folder.uri):
                raise BadInput(f"{key}: {folder} is a file; choose a folder")
            try:
                names = [n for n in folder.list() if not n.startswith(PROBE)]
            except (OSError, ValueError) as e:  # ValueError: a name with a null character
                raise BadInput(
                    f"{key}: {folder} cannot be listed: {reason(e)}; check the path and your access"
                ) from None
            if names and MARKER not in names:
                raise BadInput(
                    f"{key}: {folder} holds {names[0]!r} and is not a raydistill run directory; "
                    "choose an empty or new folder"
                )
            if CONFIG in names:
                _check_without_secrets(folder / CONFIG)
            if folder.is_local:
                _check_writable(folder.uri, key)
            elif not folder.has_bucket():
                raise BadInput(f"{key}: {folder} is in a bucket that does not exist; make it or correct its name")

    def claim(self) -> None:
        """Marks both places as ours; idempotent."""
        for folder in {self.root, self.artifacts}:
            marker = folder / MARKER
            if not marker.exists():
                marker.write(canonical({"raydistill": 1}).encode())

    @contextmanager
    def at_work(self, config: str) -> Iterator[Claim]:
        """Claims the places, and holds `root` for this configuration. Raises BadInput if another one is at work."""
        self.claim()
        with hold(self.root, "run_dir", digest(config.encode())) as claim:
            yield claim

    def artifact(self, stage: str, fingerprint: str) -> Artifact:
        return Artifact(self.artifacts, stage, fingerprint)


def _check_without_secrets(config: Location) -> None:
    """Refuses to go on with the configuration of a version that kept what it was given."""
    try:
        text = config.read().decode(errors="replace")
    except OSError as e:
        if e.errno == errno.EACCES:
            raise BadInput(f"run_dir: {config} is another user's; choose a run_dir of your own") from None
        return  # it has gone, or it is no file, which whoever needs it says
    if holds_secret(text):
        raise BadInput(
            f"run_dir: {config} holds credentials, kept by an earlier version; delete it, report.html and logs/ beside "
            "it, change those credentials where they were made, and run again with a URI without them"
        )


def _check_writable(path: str, key: str) -> None:
    """Tries it in the folder, or in the first above it that is there; others may make and remove them meanwhile."""
    parent = path
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    try:
        with tempfile.TemporaryFile(dir=parent, prefix=PROBE):
            pass
    except NotADirectoryError:
        raise BadInput(f"{key}: {parent} is a file, so {path} cannot be made; choose another folder") from None
    except OSError as e:
        if not os.path.lexists(parent):
            return _check_writable(path, key)
        raise BadInput(f"{key}: {parent} is not writable ({e.strerror}); choose another folder") from None
