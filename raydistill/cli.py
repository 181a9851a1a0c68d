"""`raydistill VERB`, and the doors in jobs/: parse, check, run, print where the result is (the last line of stdout)."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raydistill import config as configuration
from raydistill import manual, redact, signals
from raydistill.completion import completion
from raydistill.config import reads
from raydistill.errors import BadInput, RaydistillError, one_line, refuse_secrets
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG
from raydistill.store.seals import State
from raydistill.verbs import COMPARED, NO_CONFIG, VERBS, WITHOUT_CONFIG, compare, of_verb, run_location

DEFAULT, FOLDER = "quickstart", "folder"  # --config, and that of source.path=FOLDER alone
HELP = ("help", "-h", "--help", "--help-all")
FORECAST = ("prices", "gpus", "rates", "write_rates", "losses_per_hour")
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
    with contextlib.suppress(OSError, ValueError):  # a notebook's stderr is no file
        if not faulthandler.is_enabled():  # a caller who has it on, as pytest, has chosen where it writes
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
        if not argv or argv[0] in HELP[1:] or (argv[0] in HELP and set(argv[1:]) <= set(HELP)):
            print(manual.overview())
            return 0
        if argv == ["--version"]:
            print(manual.version())
            return 0
        if argv == ["--constraints"]:
            print(manual.constraints())
            return 0
        if argv[0] == "help":
            argv = [argv[1], "--help", *argv[2:]]
        manual.check_verb(argv[0])
        manual.check_words(argv[0], len(argv[1:]))
        return run(argv[0], argv[1:])
    except RaydistillError as e:
        print(f"error: {one_line(e)}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print(signals.line(signal.SIGINT), file=sys.stderr)
        return 128 + signal.SIGINT


def run(name: str, argv: Sequence[str]) -> int:
    if name in NO_CONFIG:
        return completion(argv, run) if name == "completion" else WITHOUT_CONFIG[name](argv)
    args = parser(name).parse_intermixed_args(argv)  # keys may stand before and after options
    if getattr(args, "clean", None) is not None:
        return clean(args)
    if name == "report" and (runs := list(filter(_is_run, args.overrides))):
        if len(runs) > 1 or args.out:
            _check_beside(args, "report of several runs")
            return compare([*args.overrides, "--out", args.out or COMPARED])
        if args.run is not None:
            raise BadInput(f"report: name one run, {runs[0]} or --run {args.run}; of several: report RUN RUN")
        args.run, args.overrides = runs[0], [word for word in args.overrides if word not in runs]
    if getattr(args, "out", None) is not None:
        raise BadInput("--out is of a page of several runs: name them (report RUN RUN --out FILE), or leave it out")
    overrides = [_long(o) if name == "evaluate" else o for o in args.overrides]
    images = getattr(args, "images", None)
    if images is not None:
        config = _judging(images, args, overrides)
    elif args.run is not None:
        location = run_location(args.run)
        check_config(location, args.run)
        for other in ("--config", "run_dir="):
            if (args.config is not None and other == "--config") or any(o.startswith(other) for o in overrides):
                raise BadInput(f"--run and {other} exclude each other: give the run, or what names one")
        config = configuration.load(
            str(location / CONFIG), [*overrides, f"run_dir={location}"], text=config_text(location, args.run)
        )
    else:
        config = _configured(args.config, overrides, "-tune" if name == "tune" else "")
    if args.help_all:
        print(manual.keys(name, config))
        return 0
    command_keys = reads.keys(overrides)
    reads.check(name, command_keys, config)
    if args.print_config:
        print(config.yaml(), end="")
        return 0
    if name == "plan" and (forecast := _forecast(args)) is not None:
        from raydistill.planning.main import main as estimate

        print(estimate(config, forecast))
    elif name == "pretrain":
        from raydistill.pipeline import weights

        print((weights.dry if args.dry_run else weights.pretrain)(config))
    elif name == "tune":
        from raydistill.tune import dry, sweep

        print((dry if args.dry_run else sweep).main(config, command_keys))
    elif args.dry_run:
        from raydistill.pipeline.dry import main as dry_run

        print(dry_run(config, VERBS[name].until, command_keys))  # type: ignore[arg-type]
    else:
        from raydistill.pipeline.job import main as pipeline
        from raydistill.planning.ahead import expected

        print(pipeline(config, VERBS[name].until, command_keys, expected))  # type: ignore[arg-type]
    return 0


def _configured(config: str | None, overrides: Sequence[str], suffix: str) -> configuration.Config:
    """A preset or a file with the overrides; of a folder of which nothing else is said, sized to it."""
    keys = reads.keys(overrides)
    if config == FOLDER or (config is None and "source.path" in keys and "source.kind" not in keys):
        from raydistill.pipeline import folder

        return folder.sized(overrides, suffix)
    if config is not None and "://" in config:
        return configuration.load(config, overrides, suffix, text=_remote_text(config))
    return configuration.load(DEFAULT if config is None else config, overrides, suffix)


def _remote_text(config: str) -> str:
    """What a file on an object store holds. Raises BadInput."""
    try:
        return Location.of(config).read().decode()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"--config {config}: cannot be read: {one_line(e)}; give FILE, s3:// or gs://") from None


def clean(args: argparse.Namespace) -> int:
    """Removes what unfinished trainings have left, or lists it. Raises BadInput for whatever else is asked for."""
    from raydistill.pretraining import leftovers
    from raydistill.progress import say

    _check_beside(args, f"--clean {args.clean}", "dry_run")
    if args.overrides:
        raise BadInput(f"--clean {args.clean} reads no {args.overrides[0]}; leave it out")
    remove, what = (leftovers.removable, "would remove") if args.dry_run else (leftovers.clean, "removed")
    for leftover in remove(Path(args.clean)):
        say("pretrain", f"{what} {leftover}")
    print(os.path.abspath(os.path.expanduser(args.clean)))
    return 0


def _check_beside(args: argparse.Namespace, what: str, *but: str) -> None:
    """Raises BadInput for the first option beside one that asks for something else, which would not heed it."""
    for option in ("config", "run", "dry_run", "print_config", "help_all"):
        if option not in but and getattr(args, option, None):
            raise BadInput(f"{what} reads no --{option.replace('_', '-')}; leave it out")


def _forecast(args: argparse.Namespace) -> Any:
    """What `plan --cluster` says beside the configuration; None for a plan that is carried out."""
    from raydistill.planning.main import Options

    beside = {name: getattr(args, name) for name in FORECAST}
    if args.cluster is None:
        for name, value in beside.items():
            if value:
                raise BadInput(
                    f"--{name.replace('_', '-')} goes with --cluster FILE, which plans what a run would take"
                )
        return None
    if args.dry_run:
        raise BadInput("--cluster and --dry-run exclude each other: both write nothing; leave one out")
    prices, gpus, rates, write_rates, losses = beside.values()
    return Options(args.cluster, prices, gpus, rates or (), write_rates, losses or 0.0, args.run)


def _judging(images: str, args: argparse.Namespace, overrides: Sequence[str]) -> configuration.Config:
    """The configuration that judges a folder beside real images at equal IPC."""
    if args.run is not None:
        raise BadInput("--images and --run exclude each other: give the folder to judge, or the run")
    for key in ("method", "ipc"):
        if any(o.startswith(f"{key}=") for o in overrides):
            raise BadInput(f"--images: {key} is the folder's own; leave {key}= out")
    where = images if "://" in images else os.path.abspath(os.path.expanduser(images))
    always = [f"evaluate.images={where}", "evaluate.baselines=[random,kmeans]"]
    return _configured(args.config, [*always, *overrides], "-images")


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


def _is_run(word: str) -> bool:
    """A run among keys and values: a path, or a URI, whose options hold equals signs."""
    key, sep, _ = word.partition("=")
    return not sep or "://" in key


def config_text(run: Location, run_dir: str) -> str:
    """What its config.yaml holds, wherever it lies. Raises BadInput."""
    try:
        return (run / CONFIG).read().decode()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"--run {run_dir}: {CONFIG} cannot be read: {one_line(e)}; check its permissions") from None


def _long(override: str) -> str:
    if override.startswith("seeds.generation="):
        return override  # `seeds` alone is short for the training seeds
    key, sep, value = override.partition("=")
    head, dot, tail = key.partition(".")
    return SHORT.get(head, head) + dot + tail + sep + value


def parser(name: str) -> argparse.ArgumentParser:
    p = of_verb(name, f"\n\n`raydistill {name} --help-all` lists the methods, and the keys that {name} reads.")
    p.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="dotted configuration keys, for example ipc=10 guidance.scale=0.1",
    )
    p.add_argument(
        "--config",
        metavar="NAME|FILE",
        help=f"a preset ({', '.join(configuration.presets())}) or a YAML file; default {DEFAULT}, "
        f"or {FOLDER} where source.path is given and no source.kind",
    )
    p.add_argument("--run", metavar="DIR", help="use the configuration of this run directory, or URI")
    if name == "report":
        p.add_argument("--out", metavar="FILE", help=f"page of several runs ({COMPARED})")
    if name == "evaluate":
        p.add_argument(
            "--images",
            metavar="DIR",
            help="judge a folder of images that somebody else distilled (CLASS/*.png, train/CLASS/*.png, or shards)",
        )
    if name == "pretrain":
        p.add_argument(
            "--clean",
            metavar="DIR",
            help="remove what unfinished trainings have left in a pretrain.out; with --dry-run, list it",
        )
    if name == "plan":
        _add_forecast(p)
    if VERBS[name].until or name in ("tune", "pretrain"):
        p.add_argument("--dry-run", action="store_true", help="check everything, say what would be done, and stop")
    p.add_argument("--print-config", action="store_true", help="show the resolved configuration and stop")
    p.add_argument("--help-all", action="store_true", help="list the keys that are read, as this command has them")
    return p


def _add_forecast(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--cluster",
        metavar="FILE|local",
        help="what a whole run would take on this cluster, or on this machine, stage by stage and in money, and stop",
    )
    p.add_argument("--prices", metavar="FILE", help="prices an hour; default: those that ship, with their date")
    p.add_argument("--gpus", metavar="N", type=int, help="as if the cluster had so many GPUs, and of all as many more")
    p.add_argument("--rates", metavar="FILE", action="append", help="what was measured; may be given again")
    p.add_argument("--write-rates", metavar="FILE", help="keeps what --cluster local measures")
    p.add_argument("--losses-per-hour", metavar="L", type=float, help="each spot machine is lost so often")


if __name__ == "__main__":
    sys.exit(main())
