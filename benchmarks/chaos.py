"""A cluster on which something breaks every few seconds, and whether the distilled sets are those of a quiet one.

    python benchmarks/chaos.py --seed 0 --minutes 10 [--nodes 3] [--every 6] [--name NAME]

Starts a head and nodes on this machine (with root, each node in a network namespace of its own), lets the job make a
small distilled set once undisturbed, and then again and again while faults that the seed draws come upon it: workers,
raylets, nodes and the driver killed, workers and nodes paused, nodes cut off and back, the disk full, the head lost.
A driver that ends is given the same command again, as a person or a scheduler would. When the minutes are over, the
last run is brought to its end. Prints what broke, how often, how long it took until the next unit was committed, and
what was lost, and keeps that as JSON. Exit code 1 if a byte differs or a commit is lost. The seed draws kinds and
times; which process a fault hits depends on what runs then.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from chaos_cluster import Cluster, each, environment, small_disk
from chaos_figures import Fault, Tally, commits, differences, report
from measure import RESULTS, job, machine

OVERRIDES = [
    "source.classes=[0,1,2,3]", "encode.chunk=60", "encode.actors=2", "group.buckets=4", "ipc=4", "sampler.steps=10",
    "sampler.cfg_scale=1", "sample.batch=1", "sample.actors=0", "sample.num_cpus=1", "evaluate.protocol.visits=64",
    "evaluate.protocol.evaluations=2", "evaluate.seeds=1", "evaluate.width=8", "evaluate.baselines=[random]",
    "evaluate.full=false", "evaluate.workers=2", "ray.nodes_deadline_s=60",
]  # fmt: skip
DISK_MIB = 256
AGAIN = 40  # commands in a row that end without having committed anything: the run is stuck
RETRIED = ("it is tried again", "it is tried on another worker too")
WEIGHTS = {  # how often a kind is drawn
    "worker killed": 6, "worker paused": 4, "raylet killed": 2, "node lost": 2, "node paused": 2, "node cut off": 2,
    "driver killed": 3, "driver stopped": 1, "disk full": 2, "head lost": 1,
}  # fmt: skip


class Chaos:
    """One run directory after the other on a cluster, with faults between."""

    def __init__(self, cluster: Cluster, work: Path, disk: Path, seed: int) -> None:
        self.cluster, self.work, self.disk = cluster, work, disk
        self.random, self.nodes = random.Random(seed), len(cluster.nodes)
        self.tally, self.driver = Tally(), None
        self.kept: dict[str, tuple[int, int]] = {}
        self.mends: list[tuple[float, Callable[[], None]]] = []  # what is to be undone, and when
        self.number, self.fruitless = 0, 0
        self.run, self.since = disk / "run-000", time.monotonic()

    # -- the job ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        with open(self.work / "driver.log", "a") as log:
            self.driver: subprocess.Popen[bytes] | None = subprocess.Popen(
                job("distill", *OVERRIDES, f"run_dir={self.run}"), env=environment(self.cluster.address), cwd=self.work,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def end(self) -> None:
        if self.driver is not None:
            self.driver.kill()
            self.driver.wait()

    def see(self) -> None:
        """What has been committed since; nothing that was may be gone or other."""
        now = commits(self.run)
        new = len(now) - len(self.kept)
        self.tally.lost += [f"{self.run.name}/{name}" for name, seen in self.kept.items() if now.get(name) != seen]
        self.kept = now
        if new > 0:
            self.fruitless, self.tally.commits = 0, self.tally.commits + new // 2  # data and record
            for fault in self.tally.faults:
                if fault.seconds is None:
                    fault.seconds = time.monotonic() - fault.at

    def turn(self) -> bool:
        """Looks after the driver; whether a run has come to its end."""
        assert self.driver is not None
        code = self.driver.poll()
        if code is None:
            return False
        self.see()
        self.tally.ended["finished" if code == 0 else f"exit {code}"] += 1
        if code != 0:
            self.fruitless += 1
            if self.fruitless > AGAIN:
                raise SystemExit(f"chaos: {AGAIN} commands in a row came to nothing; see {self.work / 'driver.log'}")
            self.start()
            return False
        self.tally.runs.append(time.monotonic() - self.since)
        return True

    def next_run(self, reference: Path) -> None:
        self.tally.differing += [f"{self.run.name}/{name}" for name in differences(self.run, reference)]
        shutil.rmtree(self.run)
        self.number += 1
        self.run, self.since, self.kept = self.disk / f"run-{self.number:03d}", time.monotonic(), {}

    # -- faults ----------------------------------------------------------------------------------------------------

    def strike(self, kinds: dict[str, int]) -> None:
        kind = self.random.choices(list(kinds), list(kinds.values()))[0]
        what = getattr(self, kind.replace(" ", "_"))()
        if what:
            self.tally.faults.append(Fault(kind, time.monotonic(), what))

    def mend(self, all_of_them: bool = False) -> None:
        due = [m for m in self.mends if all_of_them or m[0] <= time.monotonic()]
        self.mends = [m for m in self.mends if m not in due]
        for _, undo in due:
            undo()

    def later(self, low: float, high: float, undo: Callable[[], None]) -> str:
        seconds = self.random.uniform(low, high)
        self.mends.append((time.monotonic() + seconds, undo))
        return f"for {seconds:.0f} s"

    def worker_killed(self) -> str:
        return self._worker(signal.SIGKILL)

    def worker_paused(self) -> str:
        return self._worker(signal.SIGSTOP)

    def _worker(self, number: int) -> str:
        workers = [p for node in self.cluster.nodes for p in node.named("ray::")]
        if not workers:
            return ""
        victim = self.random.choice(workers)
        each([victim], number)
        return (
            self.later(3, 20, lambda: each([victim], signal.SIGCONT)) if number == signal.SIGSTOP else str(victim.pid)
        )

    def raylet_killed(self) -> str:
        node = self.random.choice(self.cluster.nodes)
        each(node.named("raylet"), signal.SIGKILL)
        self.mends.append((time.monotonic() + 5, lambda: self.cluster.replace(node)))
        return f"node {node.number}"

    def node_lost(self) -> str:
        node = self.random.choice(self.cluster.nodes)
        node.kill()
        self.mends.append((time.monotonic() + 5, lambda: self.cluster.replace(node)))
        return f"node {node.number}"

    def node_paused(self) -> str:
        node = self.random.choice(self.cluster.nodes)
        members = node.family()
        each(members, signal.SIGSTOP)
        return self.later(5, 60, lambda: each(members, signal.SIGCONT))

    def node_cut_off(self) -> str:
        node = self.random.choice(self.cluster.nodes)
        if not node.link:
            return ""
        self.cluster.cable(node, False)
        return self.later(5, 60, lambda: self.cluster.cable(node, True))

    def driver_killed(self) -> str:
        assert self.driver is not None
        self.driver.kill()
        return str(self.driver.pid)

    def driver_stopped(self) -> str:
        assert self.driver is not None
        self.driver.terminate()
        return str(self.driver.pid)

    def disk_full(self) -> str:
        if not self.disk.is_mount():
            return ""
        filler = self.disk / "filler"
        fill(filler)
        return self.later(2, 8, lambda: filler.unlink(missing_ok=True))

    def head_lost(self) -> str:
        """And with it every node: a new cluster, and the job is submitted again."""
        assert self.driver is not None
        self.mend(all_of_them=True)
        self.cluster.stop()
        self.driver.kill()
        self.driver.wait()
        self.cluster.start(self.nodes)
        return self.cluster.address

    def tend(self) -> None:
        """Nodes that end by themselves, as one does that was taken for dead, are replaced."""
        for node in self.cluster.ended():
            self.cluster.replace(node)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(2**16))
        except OSError:
            return


def until(chaos: Chaos, minutes: float, every: float, reference: Path) -> None:
    """Faults for so long; then the last run is brought to its end without any."""
    chaos.start()
    end, strike = time.monotonic() + 60 * minutes, time.monotonic() + every
    while True:
        time.sleep(0.2)
        over = time.monotonic() > end
        chaos.mend(over)
        chaos.tend()
        chaos.see()
        if chaos.turn():
            chaos.next_run(reference)
            if over:
                return
            chaos.start()
        if not over and time.monotonic() > strike:
            strike = time.monotonic() + chaos.random.uniform(0.5, 1.5) * every
            chaos.strike(WEIGHTS)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--every", type=float, default=6.0, help="seconds between faults, on average")
    parser.add_argument("--name", default="chaos", help="of the files that the figures go to")
    parser.add_argument("--out", type=Path, default=RESULTS.parent / "chaos")
    options = parser.parse_args(argv)
    os.environ["RAY_AUTH_MODE"] = "disabled"  # this process asks the head who is alive
    work, before = Path(tempfile.mkdtemp(prefix="rdc")), machine()
    try:
        with small_disk(work / "disk", DISK_MIB), Cluster(work) as cluster:
            cluster.start(options.nodes)
            chaos = Chaos(cluster, work, work / "disk", options.seed)
            try:
                quiet, quiet_s = quiet_run(chaos)
                until(chaos, options.minutes, options.every, quiet)
            finally:
                chaos.end()
            separate = cluster.separate
        tally = chaos.tally
        tally.retries = sum(line.rstrip().endswith(RETRIED) for line in (work / "driver.log").read_text().splitlines())
        asked_for = {"seed": options.seed, "minutes": options.minutes, "nodes": options.nodes, "every_s": options.every}
        about = {**asked_for, "machine": before, "namespaces": separate}
        report(options.out / f"{options.name}.json", tally, quiet_s, about)
        return 1 if tally.lost or tally.differing else 0
    finally:
        shutil.rmtree(work, ignore_errors=True)


def quiet_run(chaos: Chaos) -> tuple[Path, float]:
    """What the sets have to be like, and the seconds that one takes."""
    chaos.start()
    while not chaos.turn():
        time.sleep(0.2)
    quiet = shutil.move(chaos.run, chaos.work / "quiet")
    (seconds,) = chaos.tally.runs
    chaos.tally, chaos.kept, chaos.since = Tally(), {}, time.monotonic()
    return Path(quiet), seconds


if __name__ == "__main__":
    sys.exit(main())
