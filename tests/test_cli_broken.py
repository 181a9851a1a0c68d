"""A thousand command lines, each with something wrong with it: one line, exit code 2, nothing written.

Every verb is tried. A line is made of what is right, which cannot heal it, and of one fault or more; that none slips
through is seen by the work that would begin, which raises here.
"""

from __future__ import annotations

import random
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from samples import write_student

from raydistill import cli
from raydistill.config import Config, leaves, load
from raydistill.config.loading import flat_kinds
from raydistill.distributed.pretrain import job as pretraining
from raydistill.exporters import write
from raydistill.pipeline import job

LINES, BLOCKS = 1000, 10
FIELDS = {key: flat_kinds(field.annotation) for key, field in leaves(Config)}
PIPELINE = ("distill", "encode", "cluster", "plan", "sample", "evaluate", "report")
RIGHT = [
    *("ipc=1", "seed=7", "guidance.scale=0.3", "sampler.steps=9", "cluster.restarts=2", "evaluate.seeds=2"),
    *("source.licence=ünï 🙂", "source.licence=" + "x" * 3000, "run_dir=new/ünï", "method=dit", "full=true"),
]
WRONG: dict[Any, list[str]] = {
    int: [
        "many",
        "1.5",
        "010",
        "0x10",
        "1e3",
        "1:30",
        "1_0",
        "[1]",
        "{a: 1}",
        "[",
        "-9" * 9,
        "9" * 30,
        "9" * 5000,
        "١",
    ],
    float: ["x", "nan", ".inf", "1_0", "010", "1:30", "[1.0]", "{", "1e999", "-1e9", "0x1p3", "!!float 010", "yes"],
    bool: ["maybe", "yes", "on", "1", "0", "[true]", "", "TrUe", "'true'x"],
    str: ["a\0b", "\udcff", "\0"],
}
TREES = {
    "torn": b"ipc: [1",
    "list": b"- 1\n- 2",
    "word": b"hello",
    "bytes": b"\xff\xfe\x00",
    "twice": b"ipc: 1\nipc: 2\n",
    "merged": b"encode: &e {batch: 3}\nsample:\n  <<: *e\n  batch: 4\n",
    "octal": b"ipc: 010\n",
    "unknown": "sourc: {kind: digits}\nünï: 1\n".encode(),
    "type": b"evaluate: 3\n",
    "tag": b"ipc: !!python/object/apply:os.system ['touch hacked']\n",
    "deep": b"ipc: " + b"[" * 5000,
    "itself": b"source: &s\n  again: *s\n",
    "bomb": b"\n".join([b"a0: &a0 [x, x]", *(b"a%d: &a%d [*a%d, *a%d]" % (i, i, i - 1, i - 1) for i in range(1, 60))]),
    "control": b"ipc: 1\x07\nseed: \x1b[31m2",
    "crossed": b"guidance: {start: 0.1, stop: 0.5}\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what command lines may point at; a machine without GPUs; nothing may begin."""
    here = tmp_path / "here"
    for folder in ("empty", "theirs", "images/train/a", "images/val/b"):
        (here / folder).mkdir(parents=True)
    (here / "theirs" / "thesis.tex").write_text("x")
    (here / "file").write_text("x")
    (here / "old").mkdir()
    (here / "old" / "config.yaml").write_text("ipc: 010\n")
    write_student(here / "network")
    for name, text in TREES.items():
        (here / f"{name}.yaml").write_bytes(text)
    monkeypatch.chdir(here)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def reached(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("work would begin")

    for module, name in ((job, "run"), (job, "prove_nodes"), (pretraining, "_trained"), (write, "export")):
        monkeypatch.setattr(module, name, reached)
    return here


def wrong_value(rng: random.Random, verb: str) -> list[str]:
    key = rng.choice(list(FIELDS))
    kinds = FIELDS[key]
    if type(None) in kinds:
        kinds = kinds - {type(None)}
    kind = next(iter(sorted(kinds, key=str)))
    if str in kinds:
        return [f"{key}={rng.choice(WRONG[str])}"]
    if typing.get_origin(kind) is dict:
        return [f"{key}={rng.choice(['[1]', '3', 'x', '{a: 1', '{1: 2}'])}"]
    if typing.get_origin(kind) is list:
        return [f"{key}={rng.choice(['{a: 1}', '[[1]]', '[null]', '[', '[{}]'])}"]
    return [f"{key}={rng.choice(WRONG[kind])}"]


def wrong_choice(rng: random.Random, verb: str) -> list[str]:
    """A word where a few are known, from the fields themselves."""
    keys = [k for k, f in leaves(Config) if "Literal" in str(f.annotation)]
    return [f"{rng.choice(keys)}={rng.choice(['0', 'x', 'Ünï', 'a b', '🙂', chr(27) + '[31m', 'x' * 2000, '[x]'])}"]


def unknown_key(rng: random.Random, verb: str) -> list[str]:
    key = rng.choice(list(FIELDS))
    spot = rng.randrange(len(key))
    unknown = rng.choice(
        [key[:spot] + "q" + key[spot:], key + ".x", key.upper() + "_", "ünï." + key, key + "\n", key * 99]
    )
    return [f"{unknown}=1"]


def no_pair(rng: random.Random, verb: str) -> list[str]:
    return [rng.choice(["ipc", "=3", "", " ", "🙂", "a" * 5000, "\x1b[2J", "\0", "\r\n", "==", "-", "\udcff"])]


def flag(rng: random.Random, verb: str) -> list[str]:
    return rng.choice(
        [
            ["--confg", "x"],
            ["-x"],
            ["--config"],
            ["--run"],
            ["--ipc=3"],
            ["--print-config=1"],
            ["--🙂"],
            ["--images"],
            ["--out"],
            ["--" + "x" * 3000],
            ["--\n"],
        ]
    )


def config_file(rng: random.Random, verb: str) -> list[str]:
    names = ["", ".", "empty", "file", "gone.yaml", "a\0b", "x" * 5000, "quickstrat", "/proc/self/mem", "\udcff"]
    path = rng.choice([*names, *(f"{n}.yaml" for n in TREES)])
    return rng.choice([["--config", path], [f"--config={path}"], ["--config", "quickstart", "--config", path]])


def run_folder(rng: random.Random, verb: str) -> list[str]:
    path = rng.choice(["", "empty", "theirs", "file", "gone", "a\0b", "x" * 5000, "old", "s3://", "ftp://x/y", "ünï"])
    return rng.choice([["--run", path], ["--run", "empty", "--run", path], ["--run", path, "--config", "quickstart"]])


def paths(rng: random.Random, verb: str) -> list[str]:
    bad = rng.choice(["empty", "theirs", "file", "gone", "x" * 5000, "file/below"])
    models = ["vae.path", *(["generator.path"] if verb not in ("encode", "cluster") else [])]
    return rng.choice(
        [
            ["source.kind=imagefolder", f"source.path={bad}"],
            ["source.kind=parquet", f"source.path={bad}"],
            ["source.kind=webdataset", f"source.path={bad}"],
            ["source.kind=imagefolder", "source.path=images"],
            [f"source.path={bad}"],
            [f"run_dir={rng.choice(['theirs', 'file', 'file/below', 'x' * 300])}"],
            [f"artifact_dir={rng.choice(['theirs', 'file', 'file/below', 'x' * 300])}"],
            *([f"{m}={bad}"] for m in models),
        ]
    )


def contradiction(rng: random.Random, verb: str) -> list[str]:
    return rng.choice(
        [
            ["guidance.start=0.1", "guidance.stop=0.5"],
            ["source.classes=[3]"],
            ["source.classes=[3,elf]"],
            ["source.image_size=33"],
            ["manifold.nearest=50", "manifold.tangent_dim=60"],
            ["path.t0=0.9"],
            ["teacher.path=network"],
            ["label.batch=3"],
            ["features.path=network", "metrics.names=[]"],
            ["features.path=gone"],
            ["encode.num_gpus=1"],
            ["encode.num_gpus=1.5"],
            ["encode.actors=4000"],
            ["encode.device=cuda"],
            ["ray.num_cpus=1"],
            ["pretrain.out=out"],
            ["pretrain.steps=5"],
        ]
    )


def training(rng: random.Random, verb: str) -> list[str]:
    out = rng.choice([["pretrain.out=out"], ["pretrain.out=out", "pretrain.target=vae"]])
    return rng.choice(
        [
            [],
            ["pretrain.out=file"],
            ["pretrain.out=theirs"],
            ["pretrain.out=s3://a/b"],
            [*out, "run_dir=x"],
            [*out, "ipc=3"],
            [*out, "evaluate.seeds=3"],
            [*out, "pretrain.workers=7"],
            [*out, "pretrain.workers=64"],
            ["pretrain.out=out", "pretrain.init=gone"],
            ["pretrain.out=out", "pretrain.patch=3"],
            ["pretrain.out=out", "pretrain.layers=64", "pretrain.heads=64", "pretrain.head_dim=256"],
            ["pretrain.out=out", "pretrain.target=vae", "pretrain.vae_channels=[16,65536]"],
            ["pretrain.out=out", "pretrain.target=vae", "pretrain.vae_channels=[7]"],
            ["pretrain.out=out", "pretrain.trainable=vectors"],
        ]
    )


def exporting(rng: random.Random, verb: str) -> list[str]:
    run = rng.choice([[], ["--run"], ["--run", "gone"], ["--run", "empty"], ["--run", "file"], ["--run", "a\0b"]])
    kind = rng.choice([[], ["--format", "imagefolder"], ["--format", "zip"], ["--format", ""], ["--format", "🙂"]])
    return [*run, *kind, *rng.choice([[], ["--out", "new"], ["--out", "file"], ["--out", ""], ["ipc=3"]])]


def comparing(rng: random.Random, verb: str) -> list[str]:
    runs = rng.choices(["gone", "empty", "theirs", "file", "old", "", "a\0b", "x" * 5000, "s3://", "\udcff"], k=2)
    return [*runs, *rng.choice([[], ["--out", "page.html"], ["--out", "theirs"]])]


def comparing_too_few(rng: random.Random, verb: str) -> list[str]:
    return rng.choice([[], ["gone"], ["old", "--out", "page.html"], ["--out", "x"], ["--ou", "x", "old", "gone"]])


def verifying(rng: random.Random, verb: str) -> list[str]:
    run = rng.choice(
        [[], ["gone"], ["empty"], ["theirs"], ["file"], ["x" * 5000], ["s3://"], ["ftp://x/y"], ["a", "b"]]
    )
    return [*run, *rng.choice([[], ["--repair"], ["--readers"], ["--readers", "x"], ["--readers=0"], ["--reader=3"]])]


def tracked(rng: random.Random, verb: str) -> list[str]:
    run = rng.choice([[], ["gone"], ["empty"], ["theirs"], ["file"], ["x" * 5000], ["s3://"], ["a", "b"], ["a\0b"]])
    wrong = ["tracking.uri=carrier://pigeon", "tracking.uri=", "ipc=3", "tracking.experimnt=x", "--repair", "-x"]
    return [*run, *rng.choice([[], *([w] for w in wrong)])]


def looking(rng: random.Random, verb: str) -> list[str]:
    run = rng.choice([[], ["gone"], ["empty"], ["theirs"], ["file"], ["x" * 5000], ["s3://"], ["a", "b"], ["a\0b"]])
    return [*run, *rng.choice([[], ["--watch"], ["--price-per-hour=-1"], ["--price-per-hour"], ["ipc=3"], ["-x"]])]


def completing(rng: random.Random, verb: str) -> list[str]:
    return rng.choice([[], ["tcsh"], ["bash", "zsh"], ["-x"], ["x" * 4000], ["a\nb"], ["ipc=3"], ["--shell", "bash"]])


def sweeping(rng: random.Random, verb: str) -> list[str]:
    space = ["loguniform(0,1)", "uniform(2,1)", "uniform(a,b)", "normal(0,1)", "[]", "[x]", "uniform(0.1", "3"]
    other = ["tune.space.path.w_max=uniform(0.1,0.6)", "tune.space.guidance.scal=[1]", "tune.space.source.path=[a,b]"]
    numbers = ["tune.samples=0", "tune.seeds=0", "tune.search=grid", "tune.search=best", "tune.objectives=[beauty]"]
    return [rng.choice([*(f"tune.space.guidance.scale={s}" for s in space), *other, *numbers])]


GENERAL = [wrong_value, wrong_choice, unknown_key, no_pair, flag, config_file, run_folder]
FAULTS: dict[str, list[Callable[[random.Random, str], list[str]]]] = {
    **{verb: [*GENERAL, paths, contradiction] for verb in PIPELINE},
    "pretrain": [*GENERAL, training],
    "compare": [comparing, comparing_too_few],
    "export": [exporting],
    "verify": [verifying],
    "track": [tracked],
    "status": [looking],
    "completion": [completing],
    "tune": [*GENERAL, sweeping, sweeping],
}


def broken(rng: random.Random, verb: str) -> list[str]:
    """What is right stands first: of a key that is given twice the last counts."""
    if rng.random() < 0.03:
        return [rng.choice(["destill", "helpp", "", "🙂", "-x", "--verison", "ipc=3", "x" * 4000, "\0", "a\nb"])]
    if verb == "report" and rng.random() < 0.2:
        return [verb, *comparing(rng, verb)]
    right = rng.sample(RIGHT, rng.randint(0, 3)) if verb in PIPELINE else []
    wrong = [word for fault in rng.choices(FAULTS[verb], k=rng.randint(1, 2)) for word in fault(rng, verb)]
    out = ["pretrain.out=new"] if verb == "pretrain" and not any(w.startswith("pretrain.out=") for w in wrong) else []
    return [verb, *right, *(out if rng.random() < 0.8 and wrong else []), *wrong]


def tree(root: Path) -> Iterator[tuple[str, bytes | None]]:
    for path in sorted(root.rglob("*")):
        yield str(path), path.read_bytes() if path.is_file() else None


@pytest.mark.parametrize("block", range(BLOCKS))
def test_each_ends_in_one_line_with_nothing_written(block: int, folder: Path, capsys: Any) -> None:
    before, every, verbs = list(tree(folder.parent)), list(cli.VERBS), set[str]()
    for seed in range(block * LINES // BLOCKS, (block + 1) * LINES // BLOCKS):
        argv = broken(random.Random(seed), every[seed % len(every)])
        shown = (seed, [w[:80] for w in argv])
        try:
            code = cli.main(argv)
        except BaseException as e:
            raise AssertionError(f"{shown} ended in {e!r}") from e
        out, err = capsys.readouterr()
        lines = [line for line in err.split("\n")[:-1] if not line.startswith("source ")]
        assert code == 2 and not out, (shown, out[:200], err[:500])
        assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in err, (shown, lines)
        assert lines[0].isprintable() and len(lines[0]) > len("error: "), (shown, lines[0][:300])
        verbs.add(argv[0])
    assert set(cli.VERBS) <= verbs, "every verb was tried"
    assert list(tree(folder.parent)) == before, "nothing was written"


def test_what_is_right_is_right(tmp_path: Path) -> None:
    """Otherwise the lines above could be refused for what was meant to be in order."""
    for item in RIGHT:
        load("quickstart", [cli._long(item)])
