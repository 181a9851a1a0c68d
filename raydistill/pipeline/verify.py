"""verify: says what a look at a run finds, and with --repair brings it back to what it was.

What needs no computation is mended in place. A key whose data are damaged loses them, its commit and its stage's
manifest; the run's own command then computes exactly that key. The same bytes give the same manifest, so that what was
made from it stays as it is. Ray starts only if a stage on Ray has to compute.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from raydistill.errors import CorruptArtifact, StageFailed, one_line
from raydistill.identity import digest
from raydistill.progress import Progress, say
from raydistill.store import seals
from raydistill.store.artifact import Artifact
from raydistill.store.claims import Claim, hold
from raydistill.store.findings import Finding, Kind, SealedFile
from raydistill.store.location import Location
from raydistill.store.rundir import PAGE, STUDY_PAGE
from raydistill.store.verification import Contents, survey, verify


class Read:
    """Counts what many readers have read, and shows it."""

    def __init__(self, total: int) -> None:
        self.scale, unit = (10**6, "MB") if total >= 10**7 else (10**3, "kB")
        self.bytes, self.files, self.lock = 0, 0, threading.Lock()
        self.progress = Progress("verify", unit, -(-total // self.scale))

    def seen(self, size: int) -> None:
        with self.lock:
            self.bytes, self.files = self.bytes + size, self.files + 1
            self.progress.advance(-(-self.bytes // self.scale) - self.progress.done)


class Again(Protocol):
    """The command that made a run, given again."""

    def run(self) -> None: ...


def of_run(contents: Contents) -> Again:
    """Imported only where something is lost."""
    from raydistill.pipeline.again import Command

    return Command.of(contents)


def main(
    run_dir: str,
    readers: int = 16,
    repair: bool = False,
    command_of: Callable[[Contents], Again] = of_run,
) -> tuple[str, int]:
    """Prints a line for each finding. Returns the place and the exit code: 1 if something is damaged, missing, foreign.

    Raises BadInput for what is no run, and for `repair` of one that somebody works on. Before it touches anything,
    StageFailed if what is lost cannot be made again.
    """
    contents = survey(Location.of(run_dir))
    lost: list[str] = []
    if not repair:
        findings = probe(contents, readers)
    else:
        with claimed(contents) as claim:  # before it looks: what it finds is what a moment later goes
            contents = survey(contents.root)
            findings = probe(contents, readers, alone=claim is not None)
            is_needed = any(f.mends or f.part for f in findings)
            mended = bring_back(contents, findings, command_of, claim) if is_needed else None
        if mended is not None:
            lost = mended.again()
            findings = probe(survey(contents.root), readers)
            for line in lost:
                print(line)
    return str(contents.root), 1 if lost or any(f.is_fault for f in findings) else 0


@contextlib.contextmanager
def claimed(contents: Contents) -> Iterator[Claim | None]:
    """A run is this process's alone; of a folder of artifacts nobody knows who works there. Raises BadInput."""
    if not contents.is_run:
        yield None
        return
    with hold(contents.root, "run", digest(b"repair"), alone=True) as claim:
        yield claim


def probe(contents: Contents, readers: int, alone: bool = False) -> list[Finding]:
    """Reads everything, and prints what is found when it is found; `alone` as of `verify`."""
    if contents.artifacts != contents.root:
        say("verify", f"its artifacts are in {contents.artifacts}")
    read, findings = Read(contents.bytes), list[Finding]()
    with read.progress:
        for finding in verify(contents, readers, read.seen, alone):
            print(finding, flush=True)
            findings.append(finding)
    counts = Counter(f.kind for f in findings)
    counted = ", ".join(f"{counts[k]} {k}" for k in Kind if counts[k]) or "nothing is wrong"
    say("verify", f"{read.files} files, {read.bytes / read.scale:.3g} {read.progress.unit}: {counted}")
    return findings


@dataclass(frozen=True)
class Mended:
    """What cannot be mended, a line each; and what a command has to make again, with its digests as they were."""

    contents: Contents
    lost: Sequence[str]
    command: Again | None
    digests: Mapping[Artifact | SealedFile, str | None]

    def again(self) -> list[str]:
        """Gives the command; a line for each thing that is still not as it was. Nobody may have claimed the run."""
        if self.command is not None:
            self.command.run()
        lacking = (_lacks(self.contents, part, before) for part, before in self.digests.items())
        return [*self.lost, *filter(None, lacking)]


def bring_back(
    contents: Contents, findings: Sequence[Finding], command_of: Callable[[Contents], Again], claim: Claim | None
) -> Mended:
    """Mends what can be mended in place. Raises StageFailed before it touches anything."""
    ends = contents.is_run and any((contents.root / page).exists() for page in (PAGE, STUDY_PAGE))
    lacking = [f for f in findings if f.part is not None and (f.is_fault or ends)]
    parts = dict.fromkeys(f.part for f in lacking if f.part is not None and f.is_fault)
    command = command_of(contents) if lacking and contents.is_run else None
    digests = {part: _digest(part) if isinstance(part, Artifact) else None for part in parts}
    if claim is not None:
        claim.check()
    return Mended(contents, mend(findings), command, digests)


def mend(findings: Sequence[Finding]) -> list[str]:
    """Writes what is known, then removes what is of no use, if it is so still; a line for each place where that cannot
    be done."""
    lost, mended = [], 0
    for finding in findings:
        if finding.whole is not None:
            try:
                finding.location.write(finding.whole)
                mended += 1
            except StageFailed as e:
                lost.append(one_line(e))
    tried: dict[Location, bool] = {}
    for finding in findings:
        drop = [location for location in finding.drop if location not in tried]
        if drop and _is_so(finding, lost):
            tried |= {location: _removed(location, lost) for location in drop}
    lost += [f"{f.location} cannot be mended: it {f.what}" for f in findings if f.is_fault and not (f.mends or f.part)]
    say("repair", f"{mended} files written again from what is known of them, {sum(tried.values())} removed")
    return lost


def _is_so(finding: Finding, lost: list[str]) -> bool:
    try:
        return finding.is_so()
    except (OSError, StageFailed) as e:
        lost.append(f"{finding.location} cannot be looked at once more: {one_line(e)}")
        return False


def _removed(location: Location, lost: list[str]) -> bool:
    try:
        location.delete()
    except (OSError, StageFailed) as e:
        lost.append(f"cannot remove {location}: {one_line(e)}")
        return False
    return True


def _digest(artifact: Artifact) -> str | None:
    try:
        manifest = artifact.manifest()
    except CorruptArtifact:  # of another artifact
        return None
    return manifest.digest if manifest else None


def _lacks(contents: Contents, part: Artifact | SealedFile, before: str | None) -> str:
    """What has not become of a part that was to be made again."""
    if isinstance(part, SealedFile):
        whole = seals.state(part.root, part.name) is seals.State.WHOLE
        return "" if whole else f"{part.location} was not made again: it is not of the configuration of the run"
    now = _digest(part)
    if now is None:
        whose = "an earlier configuration (see logs/config-*.yaml) or another run" if contents.is_run else "a run"
        return f"{part.location} lacks what was damaged; it is of {whose}, whose command computes it again"
    if before not in (None, now):
        say("repair", f"{part.location} came out different, so what is made from it was made anew: another device?")
    return ""
