"""`raydistill VERB`, and the doors in jobs/: parse, check, run, print where the result is (the last line of stdout)."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from raydistill import config as configuration
from raydistill import redact, registry, signals
from raydistill.config import reads
from raydistill.errors import BadInput, RaydistillError, one_line, refuse_secrets
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG
from raydistill.store.seals import State


@dataclass(frozen=True)
class Verb:
    summary: str
    until: str  # the last step of the pipeline, or "" for verbs that are not part of it
    example: str


VERBS = {
    "distill": Verb(
        "the main job: images -> latents -> prototypes -> syntheses -> students -> report",
        "report",
        "distill --config nette128 source.path=DIR vae.path=DIR generator.path=DIR ipc=10",
    ),
    "encode": Verb("images -> latents, and stop", "encode", "encode --config nette128 source.path=DIR vae.path=DIR"),
    "cluster": Verb("... -> prototypes, and stop", "cluster", "cluster ipc=10"),
    "plan": Verb("... -> slots and batches, and stop", "plan", "plan ipc=10"),
    "sample": Verb("... -> syntheses and distilled/, and stop", "sample", "sample ipc=10 method=dit"),
    "evaluate": Verb(
        "train students on the images of a run, or of any folder",
        "report",
        "evaluate --run runs/quickstart seeds=5\n  raydistill evaluate --images DIR --config nette128 source.path=DIR",
    ),
    "report": Verb(
        "draw the page of a run again, or several runs on one page",
        "report",
        "report runs/a runs/b --out compare.html",
    ),
    "export": Verb(
        "the images of a run in a layout that other tools read",
        "",
        "export --run runs/quickstart --format imagefolder --out DIR",
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
    "tune": Verb(
        "search settings of a method, measure the best again, and test the winner",
        "",
        "tune tune.samples=20 tune.space.guidance.scale=loguniform(0.01,0.3)",
    ),
    "pretrain": Verb("train a VAE or a generator on the source", "", "pretrain pretrain.target=vae pretrain.out=DIR"),
}
DEFAULT = "quickstart"  # --config
SHORT = {
    "students": "evaluate.students",
    "seeds": "evaluate.seeds",
    "baselines": "evaluate.baselines",
    "full": "evaluate.full",
    "protocol": "evaluate.protocol",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 1 went wrong on the way, resumable; 2 bad input, nothing written; 130 Ctrl-C.

    A program that begins in `entry.start` ends with 143, 129 or 130 for SIGTERM, SIGHUP or SIGINT.
    """
    with contextlib.suppress(OSError, ValueError):  # a notebook's or a test's stderr is no file
        faulthandler.enable()
    sys.excepthook = redact.excepthook
    with redact.streams():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(argv: Sequence[str]) -> int:
    try:
        for word in argv:
            if why := configuration.unusable(word):
                refuse_secrets("argument", word)  # of which a part would be shown
                raise BadInput(f"argument {word[:60]!r} {why}")
        if not argv or argv[0] in ("-h", "--help"):
            print(overview())
            return 0
        if argv[0] not in VERBS:
            raise BadInput(f"unknown verb {argv[0]!r}; one of {', '.join(VERBS)}")
        return run(argv[0], argv[1:])
    except RaydistillError as e:
        print(f"error: {one_line(e)}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print(signals.line(signal.SIGINT), file=sys.stderr)
        return 128 + signal.SIGINT


def run(name: str, argv: Sequence[str]) -> int:
    if name in WITHOUT_CONFIG:
        return WITHOUT_CONFIG[name](argv)
    args = parser(name).parse_intermixed_args(argv)  # keys may stand before and after options
    if name == "report" and args.overrides and "=" not in args.overrides[0]:
        from raydistill.results.compare import compare

        print(compare(args.overrides, args.out or "compare.html"))
        return 0
    if getattr(args, "out", None) is not None:
        raise BadInput("--out is of a page of several runs: name them (report RUN RUN --out FILE), or leave it out")
    overrides = [_long(o) if name == "evaluate" else o for o in args.overrides]
    images = getattr(args, "images", None)
    if images is not None:
        config = _judging(images, args, overrides)
    elif args.run is not None:
        location = _run_place(args.run)
        if not location.is_local:
            raise BadInput(f"--run {args.run}: give the run by --config FILE and run_dir={args.run}")
        check_config(location, args.run)
        for other in ("--config", "run_dir="):
            if (args.config is not None and other == "--config") or any(o.startswith(other) for o in overrides):
                raise BadInput(f"--run and {other} exclude each other: give the run, or what names one")
        config = configuration.load(f"{location}/{CONFIG}", [*overrides, f"run_dir={location}"])
    else:
        chosen = DEFAULT if args.config is None else args.config
        config = configuration.load(chosen, overrides, "-tune" if name == "tune" else "")
    command_keys = reads.keys(overrides)
    reads.check(name, command_keys, config)
    if args.print_config:
        print(config.yaml(), end="")
        return 0
    if name == "pretrain":
        from raydistill.distributed.pretrain.job import pretrain

        print(pretrain(config))
    elif name == "tune":
        from raydistill.tune.sweep import main as sweep

        print(sweep(config, command_keys))
    else:
        from raydistill.pipeline.job import main as pipeline

        print(pipeline(config, VERBS[name].until, command_keys))  # type: ignore[arg-type]
    return 0


def _judging(images: str, args: argparse.Namespace, overrides: Sequence[str]) -> configuration.Config:
    """The configuration that judges a folder beside real images at equal IPC."""
    if args.run is not None:
        raise BadInput("--images and --run exclude each other: give the folder to judge, or the run")
    for key in ("method", "ipc"):
        if any(o.startswith(f"{key}=") for o in overrides):
            raise BadInput(f"--images: {key} is the folder's own; leave {key}= out")
    where = images if "://" in images else os.path.abspath(os.path.expanduser(images))
    always = [f"evaluate.images={where}", "evaluate.baselines=[random,kmeans]"]
    return configuration.load(DEFAULT if args.config is None else args.config, [*always, *overrides], suffix="-images")


def export(argv: Sequence[str]) -> int:
    from raydistill.exporters import write
    from raydistill.progress import say

    verb = VERBS["export"]
    p = Parser(
        prog="raydistill export",
        description=verb.summary,
        allow_abbrev=False,
        epilog=f"example: raydistill {verb.example}",
    )
    p.add_argument("--run", metavar="DIR", required=True, help="the run directory that distill printed")
    p.add_argument("--format", required=True, help=f"one of {', '.join(registry.names('exporter'))}")
    p.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")
    args = p.parse_args(argv)
    folder, files = write.export(str(_run_place(args.run)), args.format, args.out)
    say("export", f"{files} files" if files else "nothing was left to do")
    print(folder)
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

    verb = VERBS["verify"]
    p = Parser(
        prog="raydistill verify",
        description=verb.summary,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  raydistill {verb.example}\n\n{FINDINGS}",
    )
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

    verb = VERBS["track"]
    p = Parser(
        prog="raydistill track",
        description=verb.summary,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  raydistill {verb.example}",
    )
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


WITHOUT_CONFIG = {"export": export, "verify": verify, "track": track}


def _run_place(run_dir: str) -> Location:
    location = Location.of(run_dir)
    if not _readable(location):
        raise BadInput(f"--run {run_dir}: no {CONFIG} there; give the directory that distill printed")
    return location


def check_config(run: Location, run_dir: str) -> None:
    """Raises BadInput unless config.yaml is as it was sealed, or of a run without seals: an older version made it."""
    state = seals.state(run, CONFIG)
    if state is State.WHOLE or (state is State.UNSEALED and not seals.names(run)):
        return
    what = "has no seal" if state is State.UNSEALED else "is not what was written"
    raise BadInput(
        f"--run {run_dir}: {CONFIG} {what}; run the original command again, which writes it anew, or, if you mean it "
        f"as it is, give --config {run / CONFIG}"
    )


def _readable(run: Location) -> bool:
    try:
        return (run / CONFIG).exists()
    except (OSError, ValueError):  # a name too long, for example
        return False


def _long(override: str) -> str:
    if override.startswith("seeds.generation="):
        return override  # `seeds` alone is short for the training seeds
    key, sep, value = override.partition("=")
    head, dot, tail = key.partition(".")
    return SHORT.get(head, head) + dot + tail + sep + value


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise BadInput(f"{message} (see --help)")


def parser(name: str) -> argparse.ArgumentParser:
    verb = VERBS[name]
    p = Parser(
        prog=f"raydistill {name}",
        description=verb.summary,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"example:\n  raydistill {verb.example}\n\nmethods:\n{methods()}\n\n"
        f"keys and defaults:\n{configuration.describe()}",
    )
    p.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="dotted configuration keys, for example ipc=10 guidance.scale=0.1",
    )
    p.add_argument(
        "--config",
        metavar="NAME|FILE",
        help=f"a preset ({', '.join(configuration.presets())}) or a YAML file; default {DEFAULT}",
    )
    p.add_argument("--run", metavar="DIR", help="use the configuration of this run directory")
    if name == "report":
        p.add_argument("--out", metavar="FILE", help="page of several runs (compare.html)")
    if name == "evaluate":
        p.add_argument(
            "--images",
            metavar="DIR",
            help="judge a folder of images that somebody else distilled (CLASS/*.png, train/CLASS/*.png, or shards)",
        )
    p.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    return p


def methods() -> str:
    return "\n".join(f"  {n:<12} {registry.get('method', n).summary}" for n in registry.names("method"))


def overview() -> str:
    verbs = "\n".join(f"  {n:<10} {v.summary}" for n, v in VERBS.items())
    return (
        f"raydistill: distil a labelled image set into a few images per class, on Ray\n\nverbs:\n{verbs}\n\n"
        "Each but export, verify and track takes --config NAME|FILE and KEY=VALUE overrides; "
        "`raydistill VERB --help` lists every key.\n"
        "Kill it anywhere and run the same command again: finished work is kept."
    )


if __name__ == "__main__":
    sys.exit(main())
