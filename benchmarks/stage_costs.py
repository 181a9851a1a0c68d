"""What each stage of a whole job costs: seconds, CPU seconds and peak memory, from one run that this script starts.

    python benchmarks/stage_costs.py --config nette128 -- \\
        source.path=IMAGENETTE vae.path=TAESD generator.path=NETTE128_DIT

Seconds and units are the job's own account (logs/costs.json of its run directory). The script samples the CPU seconds
and the proportional set size of the driver and every process below it, and counts for a stage what lies in the seconds
before its account appeared. What no stage accounts for (the start of Ray, the listing, the report) is a row of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import RESULTS, Watched, job, machine, save, table, watch


class Accounts:
    """The accounts of a run, each with the time at which it was first seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: dict[str, tuple[float, dict[str, float]]] = {}

    def probe(self, now: float) -> None:
        try:
            costs = json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return
        for stage, cost in costs.items():
            self.seen.setdefault(stage, (now, cost))


def costs(done: Watched, accounts: Accounts) -> dict[str, dict[str, float | str]]:
    """Per stage: seconds, units, unit, cpu_s, peak bytes. What is between the stages is `other`."""
    by_stage: dict[str, dict[str, float | str]] = {}
    for stage, (end, cost) in accounts.seen.items():
        start = end - float(cost["seconds"])
        peak = max((b for t, b in done.pss if start <= t <= end), default=0)
        by_stage[stage] = {**cost, "cpu_s": done.cpu_between(start, end), "peak": peak}
    rest = {k: sum(float(c[k]) for c in by_stage.values()) for k in ("seconds", "cpu_s")}
    whole = done.end - done.start
    by_stage["other"] = {"seconds": whole - rest["seconds"], "cpu_s": done.cpu[-1][1] - rest["cpu_s"], "peak": 0}
    by_stage["all"] = {"seconds": whole, "cpu_s": done.cpu[-1][1], "peak": max((b for _, b in done.pss), default=0)}
    return by_stage


def row(stage: str, cost: dict[str, float | str]) -> list[str]:
    units, peak = float(cost.get("units", 0)), float(cost["peak"]) / 2**20
    each = f"{1000 * float(cost['seconds']) / units:.1f}" if units else ""
    amount = f"{units:.0f} {cost['unit']}" if units else ""
    return [stage, f"{float(cost['seconds']):.1f}", f"{float(cost['cpu_s']):.1f}", amount, each,
            f"{peak:.0f}" if peak else ""]  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default="nette128", help="preset or YAML file")
    p.add_argument("--work", type=Path, default=Path("runs/speed"), help="where the run goes; an old one is removed")
    p.add_argument("--every", type=float, default=2.0, help="seconds between two looks at memory, which are not free")
    p.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/speed/stages-CONFIG.json")
    p.add_argument("overrides", nargs="*", help="KEY=VALUE for the job, after --")
    args = p.parse_args(argv)
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    run, before = args.work / "whole", machine()
    shutil.rmtree(run, ignore_errors=True)
    accounts = Accounts(run / "logs" / "costs.json")
    name = args.config if not Path(args.config).is_file() else str(Path(args.config).resolve())
    command = job("distill", "--config", name, *args.overrides, f"run_dir={run}")
    done = watch(command, args.work / "whole.log", memory_every=args.every, tick=accounts.probe)
    by_stage = costs(done, accounts)
    head = ["stage", "seconds", "CPU s", "units", "ms a unit", "peak, MiB"]
    text = table(head, [row(stage, cost) for stage, cost in by_stage.items()])
    out = args.out or RESULTS / f"stages-{Path(args.config).stem}.json"
    save(out, {"machine": before, "stages": by_stage}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
