"""The verbs, and those without a configuration, which work on what runs have left."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raydistill import registry
from raydistill.errors import BadInput, refuse_secrets
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG


@dataclass(frozen=True)
class Verb:
    summary: str
    until: str  # the last step of the pipeline, or "" for verbs that are not part of it
    example: str


VERBS = {
    "distill": Verb(
        "the main job: images -> latents -> prototypes -> syntheses -> students -> report",
        "report",
        "distill source.path=FOLDER\n"
        "  raydistill distill --config nette128 source.path=DIR vae.path=DIR generator.path=DIR ipc=10",
    ),
    "encode": Verb("images -> latents, and stop", "encode", "encode --config nette128 source.path=DIR vae.path=DIR"),
    "cluster": Verb("... -> prototypes, and stop", "cluster", "cluster ipc=10"),
    "plan": Verb(
        "... -> slots and batches, and stop; with --cluster, what a run would take",
        "plan",
        "plan ipc=10\n  raydistill plan --config imagenet1k --cluster cluster.yaml --gpus 100",
    ),
    "sample": Verb("... -> syntheses and distilled/, and stop", "sample", "sample ipc=10 method=dit"),
    "evaluate": Verb(
        "train students on the images of a run, or of any folder",
        "report",
        "evaluate --run runs/quickstart seeds=5\n  raydistill evaluate --images DIR --config nette128 source.path=DIR",
    ),
    "report": Verb(
        "draw the page of a run again, or several runs on one page",
        "report",
        "report runs/quickstart\n  raydistill report s3://bucket/run\n"
        "  raydistill report runs/a runs/b --out compare.html",
    ),
    "compare": Verb("several runs on one page", "", "compare runs/a runs/b --out compare.html"),
    "export": Verb(
        "the images of a run in a layout that other tools read",
        "",
        "export --run runs/quickstart --format imagefolder --out DIR\n"
        "  raydistill export --run runs/quickstart --format hf --push OWNER/NAME --dry-run",
    ),
    "verify": Verb(
        "read everything that a run holds against its digests, and bring it back to what it was",
        "",
        "verify runs/quickstart\n  raydistill verify s3://bucket/run --readers 64\n"
        "  raydistill verify runs/quickstart --repair",
    ),
    "track": Verb(
        "bring what a run keeps for MLflow to a server, now or once more",
        "",
        "track runs/quickstart\n  raydistill track runs/quickstart tracking.uri=http://HOST:5000",
    ),
    "status": Verb(
        "how far a run is, what it has cost, why it stopped; from any machine that sees the run directory",
        "",
        "status runs/quickstart\n  raydistill status s3://bucket/run --watch",
    ),
    "tune": Verb(
        "search settings of a method, measure the best again, and test the winner",
        "",
        'tune tune.samples=20 "tune.space.guidance.scale=loguniform(0.01,0.3)"',
    ),
    "pretrain": Verb("train a VAE or a generator on the source", "", "pretrain pretrain.target=vae pretrain.out=DIR"),
    "completion": Verb("a script by which your shell completes verbs, options and keys", "", "completion bash"),
}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise BadInput(f"{message} (see --help)")


def export(argv: Sequence[str]) -> int:
    from raydistill.exporters import push, write
    from raydistill.progress import say

    p = plain("export")
    p.add_argument("directory", nargs="?", metavar="RUN", help="the run directory that distill printed")
    p.add_argument("--run", metavar="DIR", help="the same")
    p.add_argument("--format", required=True, help=f"one of {', '.join(registry.names('exporter'))}")
    p.add_argument("--out", metavar="DIR", help="a new or empty folder")
    p.add_argument("--push", metavar="OWNER/NAME", help="put it onto the Hugging Face hub, as a data set (--format hf)")
    p.add_argument("--private", action="store_true", help="make a new repository of --push private")
    p.add_argument("--dry-run", action="store_true", help="list what --push would put there, and stop")
    args = p.parse_args(argv)
    if args.run is None and args.directory is None:
        raise BadInput("export: name the run: export RUN --format FORMAT --out DIR")
    if args.run is not None and args.directory is not None:
        raise BadInput(f"export: {args.directory!r} and --run {args.run} both name a run; leave out one")
    run = str(run_location(args.run or args.directory))
    if args.push is None and args.out is None:
        raise BadInput("export: give --out DIR, a new or empty folder, or --push OWNER/NAME")
    if args.push is None and (args.private or args.dry_run):
        raise BadInput("export: --private and --dry-run go with --push OWNER/NAME; leave them out, or give it")
    if args.push is not None:
        push.check(args.push, args.format)
    with tempfile.TemporaryDirectory(prefix="raydistill-") as temporary:
        folder, files = write.export(run, args.format, args.out or os.path.join(temporary, "export"))
        say("export", f"{files} files" if files else "nothing was left to do")
        if args.push is None:
            print(folder)
        elif args.dry_run:
            print(*push.preview(Path(folder), args.push, args.private), sep="\n")
        else:
            print(push.push(Path(folder), args.push, args.private))
    return 0


FINDINGS = """what it finds, one line each on standard output:
  damaged     not what was written, or what cannot be read
  missing     named by a commit, a manifest or a seal, and not there
  foreign     a commit or a manifest of another artifact, copied here
  left over   ours, and of no use any more: of an attempt that was interrupted or came second
  unfinished  a stage without a manifest, a file without a seal: the run's own command goes on there
  not ours    what somebody put there; it is named, and neither opened nor touched

The exit code is 1 if anything is damaged, missing or foreign, and 0 otherwise. Files in logs/ have no digests.

--repair writes what is known (commits from their manifest), removes what is left over, takes damaged data away with
their commits, and gives the own command of the run or sweep again, which computes just these: the same bytes, if images
and weights are there. Otherwise nothing is touched. Then it reads everything again. While a job works it is refused."""


def verify(argv: Sequence[str]) -> int:
    from raydistill.pipeline.verify import main as probe
    from raydistill.tune.again import command_of

    p = plain("verify", f"\n\n{FINDINGS}")
    p.add_argument("run", metavar="RUN", help="a run directory, or a folder of artifacts; a path, s3:// or gs://")
    p.add_argument("--repair", action="store_true", help="rebuild what can be rebuilt, so that the run is what it was")
    p.add_argument("--readers", type=int, default=16, metavar="N", help="files that are read at once; default 16")
    args = p.parse_args(argv)
    if not 1 <= args.readers <= 1024:
        raise BadInput(f"--readers {args.readers}: give a number from 1 to 1024")
    location, code = probe(args.run, args.readers, args.repair, command_of)
    print(location)
    return code


def track(argv: Sequence[str]) -> int:
    from raydistill.tracking import late

    p = plain("track")
    p.add_argument("run", metavar="RUN", help="a run directory, or pretrain.out; a path, s3:// or gs://")
    p.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="tracking.uri and tracking.experiment; default: the run's own"
    )
    args = p.parse_args(argv)
    for override in args.overrides:
        if override.partition("=")[0] not in ("tracking.uri", "tracking.experiment") or "=" not in override:
            raise BadInput(f"track: {override!r} is neither tracking.uri=... nor tracking.experiment=...; leave it out")
        refuse_secrets("track", override)
    requested = dict(o.split("=", 1) for o in args.overrides)
    print(late.track(args.run, requested.get("tracking.uri"), requested.get("tracking.experiment")))
    return 0


COMPARED = "compare.html"


def compare(argv: Sequence[str]) -> int:
    from raydistill.results.compare import compare as page

    p = plain("compare")
    p.add_argument("runs", nargs="+", metavar="RUN", help="directories of finished runs; paths, s3:// or gs://")
    p.add_argument("--out", metavar="FILE", default=COMPARED, help=f"the page; default {COMPARED}")
    args = p.parse_intermixed_args(argv)
    if len(args.runs) < 2:
        raise BadInput(f"compare: {args.runs[0]} alone compares with nothing; name two runs, or write report RUN")
    print(page(args.runs, args.out))
    return 0


WATCH_S = 5.0  # between two looks


def status(argv: Sequence[str]) -> int:
    from raydistill.results.status import news_folder
    from raydistill.results.status import status as described
    from raydistill.store.claims import at_work

    p = plain("status")
    p.add_argument("run", metavar="RUN", help="a run directory, or pretrain.out; a path, s3:// or gs://")
    p.add_argument("--watch", action="store_true", help=f"look again every {WATCH_S:g} s until nobody is at work")
    p.add_argument(
        "--price-per-hour", type=float, metavar="P", help="what an hour of all machines costs: what has been spent"
    )
    args = p.parse_args(argv)
    if args.price_per_hour is not None and not 0 <= args.price_per_hour < 1e6:
        raise BadInput(f"--price-per-hour {args.price_per_hour}: give a number from 0 to a million")
    print(described(args.run, args.price_per_hour), flush=True)
    while args.watch and at_work(news_folder(args.run)):
        time.sleep(WATCH_S)
        clear = "\033[H\033[2J" if sys.stdout.isatty() else ""
        print(clear + described(args.run, args.price_per_hour), flush=True)
    return 0


def plain(name: str, more: str = "") -> Parser:
    """The parser of a verb that takes no configuration."""
    p = of_verb(name, more)
    p.add_argument("--help-all", action="help", help=argparse.SUPPRESS)  # there is no more to say
    return p


def of_verb(name: str, more: str = "") -> Parser:
    """A parser that knows what the verb is; `more` ends its help."""
    verb = VERBS[name]
    return Parser(
        prog=f"raydistill {name}",
        description=verb.summary,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  raydistill {verb.example}{more}",
    )


WITHOUT_CONFIG = {"compare": compare, "export": export, "verify": verify, "track": track, "status": status}
NO_CONFIG = (*WITHOUT_CONFIG, "completion")  # which asks every verb for its options


def run_location(run_dir: str) -> Location:
    location = Location.of(run_dir)
    if not _readable(location):
        raise BadInput(f"--run {run_dir}: no {CONFIG} there; give the directory that distill printed")
    return location


def _readable(run: Location) -> bool:
    try:
        return (run / CONFIG).exists()
    except (OSError, ValueError):  # a name too long, for example
        return False
