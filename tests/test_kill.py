"""Kill it anywhere, run the same command again: the product is that of a run that nothing disturbed (DESIGN promise 1).

By default every stage with workers loses one, and the driver or everything dies three times, on one run directory, on
a real local Ray (a driver that dies at any commit of a stage, without Ray: test_stages_resume.py). The whole matrix,
every stage at every point of its commits, and random kills of workers, of the driver and of everything take longer:

    python -m pytest -m slow tests/test_kill.py
    KILLS=50 KILL_SEED=7 python -m pytest -m slow tests/test_kill.py -k random
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest
from running import commits, finish, product, start, traces

from raydistill.store.faults import POINTS

Reference = tuple[Path, subprocess.CompletedProcess[str]]
ARTIFACTS = ("latents", "classes", "prototypes", "plan", "syntheses", "metrics", "evaluations")
NOWHERE = {"RAY_ADDRESS": "127.0.0.1:9"}  # where no cluster is: what finishes with it has not asked Ray for anything
PATIENCE_S = 600.0


class Faults:
    """Faults that fire once each: `env` for the run, `left()` those that have not fired."""

    def __init__(self, folder: Path, *specs: str) -> None:
        folder.mkdir()
        self.tokens = [folder / f"{i}" for i in range(len(specs))]
        for token in self.tokens:
            token.touch()
        pairs = zip(specs, self.tokens, strict=True)
        self.env = {"RAYDISTILL_FAULT": ";".join(f"{spec}:{token}" for spec, token in pairs)}
        self.specs = specs

    def left(self) -> list[str]:
        return [spec for spec, token in zip(self.specs, self.tokens, strict=True) if token.exists()]


def midst(stage: str) -> tuple[str, str]:
    """Two workers die after a commit of theirs: for seconds, until others have started, the stage stands half-way."""
    return (f"{stage}:after_commit:*",) * 2


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The driver and every process of its local cluster."""
    try:
        driver = psutil.Process(process.pid)
        return [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(process: subprocess.Popen[str], everything: bool = False) -> None:
    """SIGKILL to the driver, or to it and its whole cluster; returns when all of them are gone."""
    members = family(process)
    for member in members if everything else members[:1]:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    bury(members)


def bury(members: Sequence[psutil.Process]) -> None:
    """Gives a dead driver's cluster time to end by itself, and ends what does not."""
    _, alive = psutil.wait_procs(members, timeout=10)  # Ray's agents may take minutes
    for member in alive:
        member.kill()
    psutil.wait_procs(alive, timeout=10)


def await_that(true: Callable[[], bool], process: subprocess.Popen[str], run: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert process.poll() is None, f"ended with {process.poll()}: {said(run)}"
        assert time.monotonic() < deadline, f"nothing for {PATIENCE_S} s: {said(run)}"
        time.sleep(0.003)


def end(process: subprocess.Popen[str], run: Path) -> int:
    """Waits for a run to end, by itself or by a fault."""
    members = family(process)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while process.poll() is None:
            assert time.monotonic() < deadline, f"nothing for {PATIENCE_S} s: {said(run)}"
            members = family(process) or members
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            kill(process, everything=True)
    bury(members)
    return process.returncode


def said(run: Path) -> str:
    return run.with_suffix(".log").read_text()[-3000:]


def count(run: Path, stage: str) -> int:
    return len(list(run.glob(f"{stage}/*/commits/*.json")))


def assert_undisturbed(run: Path, reference: Path) -> None:
    """The same commits, byte for byte and none twice; the same manifests; the same product; a whole report."""
    assert set(commits(run)) == set(commits(reference))
    for manifest in reference.glob("*/*/manifest.json"):
        assert (run / manifest.relative_to(reference)).read_bytes() == manifest.read_bytes()
    for stage in ARTIFACTS:
        assert count(run, stage) == count(reference, stage)
    assert product(run) == product(reference)
    assert (run / "report.html").exists() and (run / "result.json").exists()


@pytest.mark.ray
@pytest.mark.timeout(2400)
def test_killed_in_every_stage_it_ends_as_if_nothing_had_happened(reference: Reference, tmp_path: Path) -> None:
    run, (plain, _) = tmp_path / "run", reference
    chunks, batches = count(plain, "latents"), 3

    faults = Faults(tmp_path / "1", *midst("latents"))
    process = start(run, **faults.env)
    await_that(lambda: faults.left() == [], process, run)
    kill(process)
    kept = commits(run)
    assert 2 <= count(run, "latents") < chunks, "the driver died in the midst of encode"

    deaths = ("latents:before_commit:*", "classes:before_write:*", "prototypes:after_commit:*")
    faults = Faults(tmp_path / "2", *deaths, *midst("syntheses"))
    process = start(run, **faults.env)
    await_that(lambda: faults.left() == [], process, run)  # each worker died and was replaced
    kill(process, everything=True)
    assert kept.items() <= commits(run).items()
    assert [count(run, stage) for stage in ARTIFACTS[:3]] == [chunks, 4, 4]
    assert 2 <= count(run, "syntheses") < 2 * batches, "everything died in the midst of sample"

    kept = commits(run)
    deaths = ("syntheses:before_commit:*", "training:after_commit:*", "evaluations:before_commit:*")
    faults = Faults(tmp_path / "3", *deaths, "report:before_write:report.html")
    assert end(start(run, **faults.env), run) == -signal.SIGKILL, said(run)
    assert faults.left() == [] and kept.items() <= commits(run).items()
    assert count(run, "syntheses") == 2 * batches and count(run, "evaluations") == 2
    assert (run / "result.json").exists() and not (run / "report.html").exists()

    kept = commits(run)
    last = finish(run, **NOWHERE)
    assert last.returncode == 0 and last.stdout.splitlines() == [str(run)], last.stderr
    assert kept.items() <= commits(run).items()
    assert_undisturbed(run, plain)
    before = traces(run)
    assert finish(run, **NOWHERE).returncode == 0 and traces(run) == before


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_product_or_page_that_was_cut_short_is_made_whole(reference: Reference, tmp_path: Path) -> None:
    """All that is left to do needs no Ray: the driver dies before each file, or in the midst of it."""
    run, (plain, _) = tmp_path / "run", reference
    shutil.copytree(plain, run, copy_function=shutil.copy2)
    kept = commits(run)
    shutil.rmtree(run / "distilled")
    (run / "report.html").unlink()
    shards = [n for n in product(plain) if n.endswith(".parquet")]
    points = [f"distilled:before_write:{name}" for name in (*shards, "README.md")]
    points += [f"report:before_write:{name}" for name in ("trainings.json", "result.json")]
    for i, point in enumerate(points):
        faults = Faults(tmp_path / f"fault-{i}", point)
        assert finish(run, **NOWHERE, **faults.env).returncode == -signal.SIGKILL and faults.left() == []
    assert finish(run, **NOWHERE).returncode == 0
    assert_undisturbed(run, plain)
    for file in (run / "distilled" / shards[0], run / "report.html"):
        os.truncate(file, file.stat().st_size // 2)
    whole = (plain / "report.html").stat().st_size
    assert finish(run, **NOWHERE).returncode == 0
    assert_undisturbed(run, plain)
    assert abs((run / "report.html").stat().st_size - whole) < 0.1 * whole
    assert kept == commits(run)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("stage", ARTIFACTS)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_of_any_stage(reference: Reference, tmp_path: Path, stage: str, point: str) -> None:
    """One stage is done again, and dies at the point; those before and after it are there and stay as they are."""
    run, (plain, _) = tmp_path / "run", reference
    shutil.copytree(plain, run, copy_function=shutil.copy2)
    shutil.rmtree(run / stage)
    kept = commits(run)
    faults = Faults(tmp_path / "faults", f"{stage}:{point}:*")
    code = end(start(run, **faults.env), run)
    in_driver = stage == "plan" or point.endswith("manifest")
    assert code == (-signal.SIGKILL if in_driver else 0) and faults.left() == [], said(run)
    assert finish(run, **({} if point != "after_manifest" and in_driver else NOWHERE)).returncode == 0
    assert kept.items() <= commits(run).items()
    assert_undisturbed(run, plain)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(7200)
def test_random_kills(reference: Reference, tmp_path: Path) -> None:
    """KILLS (10) times somebody dies: a worker, the driver or all. What was committed stays; the end is the same."""
    seed = int(os.environ.get("KILL_SEED", "0"))
    rng, run, deaths = random.Random(seed), tmp_path / "run", list[str]()
    process, kept = start(run), dict[str, tuple[int, int]]()
    while len(deaths) < int(os.environ.get("KILLS", "10")):
        after, until = len(commits(run)) + rng.randint(0, 8), time.monotonic() + 120
        while len(commits(run)) < after and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2))
        if process.poll() is not None:
            assert process.returncode in (0, 1), (process.returncode, said(run))
            if process.returncode == 1:
                assert "run the same command again" in said(run).splitlines()[-1]
            else:
                shutil.rmtree(run)
                kept = {}
            process = start(run)
            continue
        assert kept.items() <= commits(run).items(), deaths
        kept = commits(run)
        victim = rng.choice(["worker", "worker", "driver", "all"])
        if victim == "worker":
            workers = [p for p in family(process)[1:] if name(p).startswith(("ray::", "python"))]
            if not workers:
                continue
            chosen = rng.choice(workers)
            victim = name(chosen)
            try:
                chosen.kill()
            except psutil.NoSuchProcess:
                continue
        else:
            kill(process, everything=victim == "all")
            process = start(run)
        deaths.append(victim)
        print(f"{len(deaths)}: {victim}, {len(kept)} files committed", flush=True)
    for _ in range(3):
        if end(process, run) == 0:
            break
        process = start(run)
    assert process.returncode == 0, said(run)
    assert kept.items() <= commits(run).items(), deaths
    assert_undisturbed(run, reference[0])


def name(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.NoSuchProcess:
        return ""
