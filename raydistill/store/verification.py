"""Everything that a run or an artifact folder holds, read against its digests. Nothing is written, no name is followed
out of the folder, and what is not ours is named and not opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, unquote

from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.config import text
from raydistill.errors import BadInput, CorruptArtifact
from raydistill.identity import FINGERPRINT_HEX, canonical
from raydistill.store import claims, inspection, seals
from raydistill.store.artifact import Artifact
from raydistill.store.findings import Finding, Kind, SealedFile
from raydistill.store.inspection import Seen
from raydistill.store.location import Location, NoFile, reason
from raydistill.store.rundir import (
    BEST,
    CONFIG,
    MARKER,
    PAGE,
    PARTS,
    PROBE,
    PRODUCT,
    RATES,
    RESULT,
    STUDY,
    STUDY_PAGE,
    TRACKING,
    TRAININGS,
    TRIAL_PAGES,
    TRIALS,
)
from raydistill.store.seals import State

FINGERPRINT = re.compile(rf"[0-9a-f]{{{FINGERPRINT_HEX}}}")
SHARDS = "data"  # the folder of distilled/ that holds them
SHARD = re.compile(r"train-\d{5,}-of-\d{5,}\.parquet|README\.md")
KEPT_CONFIG = re.compile(r"config-([0-9a-f]{8})\.yaml")
STATE = re.compile(r"step-\d{9,}~([0-9a-f]{16})\.pt")
PART = re.compile(rf"[a-z]+/{FINGERPRINT.pattern}")
FITS = re.compile(rf"evaluate-{FINGERPRINT.pattern}")  # Ray Train's own notes on its fits
CHECKPOINTS = "checkpoints"
PEOPLES = (CONFIG, RESULT, TRAININGS, PAGE, "logs/costs.json", PARTS, STUDY, BEST, STUDY_PAGE, TRIALS, RATES)
GIVE = "give the directory that distill printed"
SEARCH = "tune"  # Ray Tune's own notes on its trials
FOLDERS = (PRODUCT, TRIAL_PAGES, CHECKPOINTS, "logs", TRACKING, seals.FOLDER, claims.FOLDER)


@dataclass(frozen=True)
class Contents:
    """What there is to read: a run directory with the place of its artifacts, or an artifact folder alone."""

    root: Location
    artifacts: Location
    parts: tuple[Artifact, ...]
    is_run: bool
    bytes: int  # of data and sealed files, as listed


def survey(folder: Location) -> Contents:
    """Looks at what is there. Raises BadInput for what is neither a run directory nor an artifact folder."""
    try:
        infos = folder.infos()
    except (OSError, ValueError) as e:  # a file, a folder that must not be read, a name with a null character
        raise BadInput(
            f"verify: {folder} cannot be listed: {reason(e)}; give the directory that distill printed"
        ) from None
    names = {i.base_name for i in infos}
    if not names:
        gone = "is empty" if folder.exists() else "is not there"
        raise BadInput(f"verify: {folder} {gone}; {GIVE}")
    is_run = CONFIG in names or seals.FOLDER in names
    artifacts = _artifact_dir(folder) if is_run else folder
    parts = [Artifact(artifacts, *name.split("/")) for name in _parts(artifacts)]
    if MARKER not in names and not parts and not _sealed(folder):
        raise BadInput(f"verify: {folder} is neither a run directory nor a folder of artifacts; {GIVE}")
    total = sum(i.size or 0 for a in parts for i in _infos(a.location / "data") if i.type == pafs.FileType.File)
    total += sum(seal.bytes for f in _sealed(folder) if (seal := seals.find(f.root, f.name)) is not None)
    return Contents(folder, artifacts, tuple(parts), is_run, total)


def verify(
    contents: Contents, readers: int = 16, seen: Seen = lambda size: None, alone: bool = False
) -> Iterator[Finding]:
    """What is wrong, part by part; `seen` is told the bytes of every file that was read, by several threads.

    `alone`: the caller has claimed the run, so that no other driver works on it.
    """
    root, artifacts = contents.root, contents.artifacts
    looks: Callable[[], int] = (lambda: 1) if alone else partial(_patience, root)
    shared = artifacts != root or not contents.is_run
    with ThreadPoolExecutor(readers) as reading, ThreadPoolExecutor(readers) as probing:
        probes: list[Callable[[], list[Finding]]] = [
            *(partial(_marker, folder) for folder in dict.fromkeys((root, artifacts))),
            *(partial(inspection.inspect, a, reading, seen, looks, shared) for a in contents.parts),
            *(partial(_seal, file, seen, looks) for file in _sealed(root)),
            partial(_gone, contents),
            partial(_unsealed, root),
            partial(_checkpoints, root, {a.fingerprint for a in contents.parts if _committed(a)}),
            partial(_logs, root),
            *(
                partial(_strangers, folder, shared and folder == artifacts)
                for folder in dict.fromkeys((root, artifacts))
            ),
        ]
        try:
            for findings in probing.map(lambda probe: probe(), probes):
                yield from findings
        finally:
            probing.shutdown(cancel_futures=True)
            reading.shutdown(cancel_futures=True)


def _artifact_dir(root: Location) -> Location:
    """Where the artifacts of a run are; those of a run whose configuration cannot be read are looked for in itself."""
    try:
        tree = text.read((root / CONFIG).read().decode())
    except (OSError, ValueError):
        return root
    artifact_dir = tree.get("artifact_dir") if isinstance(tree, dict) else None
    return Location.of(artifact_dir) if isinstance(artifact_dir, str) and artifact_dir else root


def _parts(artifacts: Location) -> Iterator[str]:
    """STAGE/FINGERPRINT of every artifact."""
    for stage in _folders(artifacts):
        if stage not in FOLDERS:
            yield from (f"{stage}/{n}" for n in _folders(artifacts / stage) if FINGERPRINT.fullmatch(n))


def _folders(folder: Location) -> list[str]:
    return sorted(i.base_name for i in _infos(folder) if i.type == pafs.FileType.Directory)


def _infos(folder: Location) -> list[pafs.FileInfo]:
    """What is in a folder; nothing if there is none, or a file in its place."""
    try:
        return sorted(folder.infos(), key=lambda i: i.base_name)
    except OSError:
        return []


def _marker(folder: Location) -> list[Finding]:
    whole = canonical({"raydistill": 1}).encode()
    try:
        if (folder / MARKER).read() == whole:
            return []
        return [Finding(Kind.DAMAGED, folder / MARKER, "does not mark a run directory any more", whole)]
    except FileNotFoundError:
        return [Finding(Kind.MISSING, folder / MARKER, "marks a run directory", whole)]
    except OSError as e:
        return [Finding(Kind.DAMAGED, folder / MARKER, f"cannot be read: {reason(e)}; move it away")]


def _sealed(root: Location) -> list[SealedFile]:
    """The files that have a seal, whole or not: what people read, and the weights of students."""
    return [
        SealedFile(folder, unquote(i.base_name.removesuffix(".json")))
        for folder in (root, root / CHECKPOINTS)
        for i in _infos(folder / seals.FOLDER)
        if _is_seal(i)
    ]


def _is_seal(info: pafs.FileInfo) -> bool:
    """Whether it is the seal of a file inside the folder."""
    name = unquote(info.base_name.removesuffix(".json"))
    inside = all(part not in ("", ".", "..") for part in name.split("/"))
    return info.type == pafs.FileType.File and inside and info.base_name == f"{quote(name, safe='')}.json"


def _patience(root: Location) -> int:
    """How many looks have to agree: on a busy machine a run that works stands still between a file and its seal."""
    try:
        return inspection.LOOKS if claims.at_work(root) else 1
    except OSError:
        return 1


def _seal(file: SealedFile, seen: Seen, looks: Callable[[], int]) -> list[Finding]:
    """One sealed file; a small one that nothing could make again comes back from its seal."""
    # A run that works writes the file first, and its seal next.
    probe = partial(seals.probe, file.root, file.name)
    state, seal, _ = inspection.steady(probe, lambda seen: seen[0] is State.WHOLE, looks)
    if seal is None and state is State.MISSING:
        return [Finding(Kind.LEFT_OVER, file.seal, "is a torn seal of a file that is not there", drop=(file.seal,))]
    if seal is None:
        return [Finding(Kind.DAMAGED, file.seal, f"is no seal of {file.name} any more", part=file)]
    if state is State.WHOLE:
        seen(seal.bytes)
        return []
    kind, what = (Kind.MISSING, "was sealed") if state is State.MISSING else (Kind.DAMAGED, "is not what was sealed")
    return [Finding(kind, file.location, what, seal.copy.encode() or None, part=None if seal.copy else file)]


def _unsealed(root: Location) -> list[Finding]:
    """What the program writes under a seal and has none, and what somebody put beside it."""
    names = {f.name for f in _sealed(root) if f.root == root}
    there = [n for n in PEOPLES if (root / n).exists()]
    there += [f"{PRODUCT}/{i.base_name}" for i in _infos(root / PRODUCT) if i.base_name != SHARDS]
    there += [f"{PRODUCT}/{SHARDS}/{i.base_name}" for i in _infos(root / PRODUCT / SHARDS)]
    findings = []
    for file in (SealedFile(root, n) for n in there if n not in names):
        if file.name in PEOPLES or SHARD.fullmatch(file.location.name):
            text = "has no seal: nobody knows whether it is whole; the same command seals it"
            findings.append(Finding(Kind.UNFINISHED, file.location, text, part=file))
        else:
            findings.append(_stranger(file.location))
    for folder in (root / seals.FOLDER, root / CHECKPOINTS / seals.FOLDER):
        findings += [_stranger(folder / i.base_name) for i in _infos(folder) if not _is_seal(i)]
    return findings


def _gone(contents: Contents) -> list[Finding]:
    """Artifacts that the run stands on, by its own list, of which nothing is there."""
    try:
        listed = strict_json.strings(seals.read(contents.root, PARTS, "")) if contents.is_run else []
    except (CorruptArtifact, ValueError):  # it has a finding of its own, or is of a run that has not come so far
        return []
    there = {f"{a.stage}/{a.fingerprint}" for a in contents.parts}
    gone = [Artifact(contents.artifacts, *name.split("/", 1)) for name in listed if PART.fullmatch(name)]
    return [
        Finding(Kind.MISSING, a.location, "is gone, and the run stands on it", part=a)
        for a in gone
        if f"{a.stage}/{a.fingerprint}" not in there
    ]


def _committed(artifact: Artifact) -> bool:
    return artifact.stage == "evaluations" and bool((artifact.location / "commits").list())


def _checkpoints(root: Location, committed: set[str]) -> list[Finding]:
    """States of trainings: of use until the training is committed, and only if they are what their name says."""
    findings, checkpoints = [], root / CHECKPOINTS
    for info in _infos(checkpoints):
        if info.base_name not in ("trainings", "students", SEARCH, seals.FOLDER) and not FITS.fullmatch(info.base_name):
            findings.append(_stranger(checkpoints / info.base_name))
    for training in _infos(checkpoints / "trainings"):
        folder = checkpoints / "trainings" / training.base_name
        for info in _infos(folder):
            location, name = folder / info.base_name, STATE.fullmatch(info.base_name)
            if name is None or not FINGERPRINT.fullmatch(training.base_name):
                findings.append(_stranger(location))
            elif training.base_name in committed:
                what = "is the state of a training that is committed"
                findings.append(Finding(Kind.LEFT_OVER, location, what, drop=(location,)))
            elif not _begins(location, name[1]):
                findings.append(Finding(Kind.LEFT_OVER, location, "is a torn state of a training", drop=(location,)))
    return findings


def _logs(root: Location) -> list[Finding]:
    """Earlier configurations are named by their digests; other logs have none."""
    findings = []
    for info in _infos(root / "logs"):
        location, name = root / "logs" / info.base_name, KEPT_CONFIG.fullmatch(info.base_name)
        if name is not None and not _begins(location, name[1]):
            what = "is not the earlier configuration that it was; delete it"
            findings.append(Finding(Kind.DAMAGED, location, what))
    return findings


def _begins(location: Location, stamp: str) -> bool:
    """Whether the digest of a file begins so, or it is gone. Raises CannotRead."""
    try:
        return location.digest()[1].startswith(stamp)
    except FileNotFoundError:
        return True
    except NoFile:
        return False


def _strangers(root: Location, shared: bool) -> list[Finding]:
    """Directly in the folder and in those of stages: probes of nodes that were killed, and what is not ours."""
    findings, infos = [], _infos(root)
    fresh = inspection.young(infos) if shared else frozenset[str]()
    for info in infos:
        name, location = info.base_name, root / info.base_name
        if name in (MARKER, *PEOPLES, *FOLDERS):
            continue
        if name.startswith(PROBE):
            what = "is the probe of a node"
            if name in fresh:
                findings.append(Finding(Kind.LEFT_OVER, location, f"{what}{inspection.LEFT_ALONE}"))
            else:
                findings.append(Finding(Kind.LEFT_OVER, location, what, drop=(location,)))
        elif info.type != pafs.FileType.Directory:
            findings.append(_stranger(location))
        else:
            inside = _infos(location)
            ours = [i for i in inside if i.type == pafs.FileType.Directory and FINGERPRINT.fullmatch(i.base_name)]
            if not ours and inside:
                findings.append(_stranger(location))
            findings += [_stranger(location / i.base_name) for i in inside if ours and i not in ours]
    return findings


def _stranger(location: Location) -> Finding:
    return Finding(Kind.NOT_OURS, location, "is left alone")
