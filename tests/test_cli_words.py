"""A thousand random command lines: each ends in one line, or in work."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path

import pytest

from raydistill import cli
from raydistill import config as configuration
from raydistill.pipeline import job
from raydistill.pretraining.plan import make_plan
from raydistill.state import Results
from raydistill.store.rundir import RunDir

GARBAGE = [
    "",
    "null",
    "true",
    "no",
    "0",
    "1",
    "-1",
    "7",
    "50",
    "1e9",
    "1e-4",
    "0.5",
    "nan",
    "inf",
    "-0",
    "[]",
    "[a]",
    "[0,1]",
    "[[]]",
    "{}",
    "{a: 1}",
    "digits",
    "random",
    "convnet",
    "ddim",
    "cpu",
    "cuda",
    "all",
    "x" * 300,
    "'",
    "\x00",
    "é\n",
    "!!python/object:os.system",
    "&a [*a]",
    "2026-11-20",
    "0x10",
    "1_0",
    "~",
    "../..",
    "/nowhere",
]


WORDS = [
    "--config",
    "--run",
    "quickstart",
    "nette128",
    "nowhere",
    "--print-config",
    "--",
    "-x",
    "=",
    "a=b",
    "a.b.c=1",
    "source=1",
    "source.=1",
    ".ipc=1",
    "ipc.x=1",
    "ipc=1=2",
    "",
    " ",
    "--ipc=3",
    "seeds=2",
    "🙂=1",
]


def fuzzed(rng: random.Random) -> list[str]:
    """A command line: mostly real keys, values that fit now and then, and now and then no configuration at all."""
    keys = [k for k, _ in configuration.leaves(configuration.Config) if k not in ("run_dir", "artifact_dir")]
    items = [f"{rng.choice(keys)}={rng.choice(GARBAGE)}" for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.2:
        items.insert(rng.randint(0, len(items)), rng.choice(WORDS))
    verb = rng.choice(list(cli.VERBS)) if rng.random() < 0.98 else rng.choice(WORDS)
    return [verb, *(["seed=1"] if rng.random() < 0.9 else []), *items]  # most verbs alone want a word


def test_a_thousand_random_command_lines_end_in_one_line_or_in_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything but the work itself happens: what validates is checked against the world as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job, "run", lambda prepared, *_, **__: Results(prepared, computed=True))
    monkeypatch.setattr(job, "prove_nodes", lambda *_: None)
    monkeypatch.setattr("raydistill.tune.sweep.carry", lambda *_: None)
    monkeypatch.setattr(RunDir, "at_work", lambda *_: nullcontext())
    monkeypatch.setattr("raydistill.pipeline.weights.job.pretrain", lambda config: str(make_plan(config).out))
    rng, codes = random.Random(20), {0: 0, 2: 0}
    for _ in range(1000):
        argv = fuzzed(rng)
        try:
            code = cli.main(argv)
        except BaseException as e:
            raise AssertionError(f"{argv} ended in {e!r}") from e
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("source ")]
        assert code in codes, (argv, lines)
        assert [line.startswith("error: ") for line in lines] == [True] * (code == 2), (argv, lines)
        codes[code] += 1
    assert min(codes.values()) > 100 and not list(tmp_path.iterdir()), codes
