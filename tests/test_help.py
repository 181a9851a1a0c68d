"""What the command line says of itself: short help, all keys on demand, the version, and what a verb wants."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raydistill import cli, registry
from raydistill import config as configuration
from raydistill.config import reads
from raydistill.verbs import NO_CONFIG

KEYS = [key for key, _ in configuration.leaves(configuration.Config)]


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    try:
        code = cli.main(argv)
    except SystemExit as e:
        code = e.code  # type: ignore[assignment]
    out, err = capsys.readouterr()
    assert code == 0 and not err
    return out


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_is_short_and_ends_with_an_example(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    text = shown(capsys, verb, "--help")
    assert len(text.splitlines()) < 50 and f"raydistill {verb} " in text.partition("example:")[2]
    assert text == shown(capsys, "help", verb)
    assert (text == shown(capsys, verb, "--help-all")) == (verb in NO_CONFIG), "there is no more to say"


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v not in NO_CONFIG])
def test_all_of_it_lists_every_method_and_the_keys_that_are_read(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    text, config = shown(capsys, verb, "--help-all"), configuration.load()
    listed = {key for key in KEYS if f"\n  {key}=" in text}
    assert [m for m in registry.names("method") if f"  {m} " not in text] == []
    assert listed == {key for key in KEYS if reads.reads(verb, key, config)}
    assert {"source.path", "encode.batch", "ray.address"} <= listed
    assert ("tune.samples" in listed, "pretrain.out" in listed) == (verb == "tune", verb == "pretrain")
    later = {"encode": "ipc", "cluster": "guidance.scale", "plan": "sample.batch", "sample": "evaluate.seeds"}
    assert verb not in later or later[verb] not in listed


def test_all_of_it_shows_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["method=lgd", "ipc=7", "lgd.candidates=3", "evaluate.full=true"]
    text = shown(capsys, "distill", "--config", "nette128", *words, "--help-all")
    baselines = configuration.load("nette128", words).evaluate.baselines
    lines = [*words, "source.image_size=128", f"evaluate.baselines=[{','.join(baselines)}]", "source.path=null"]
    assert baselines and [line for line in lines if f"\n  {line} " not in text] == []


def test_without_a_verb_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    assert text == shown(capsys, "--help") == shown(capsys, "help")
    assert text == shown(capsys, "help", "--help") == shown(capsys, "help", "help")
    assert all(text.count(f"\n  {verb} ") == 1 for verb in cli.VERBS)


def test_the_version_says_which_code_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--version")
    assert re.fullmatch(r"raydistill \d+\.\d+\.\d+( \([0-9a-f]{12}\))?\n", out)
    assert ("(" in out) or not (Path(__file__).parents[1] / ".git").exists()
    module = subprocess.run([sys.executable, "-m", "raydistill", "--version"], capture_output=True, text=True)
    assert (module.stdout, module.returncode) == (out, 0)


def test_the_versions_that_were_tested_together_come_with_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """Extras are installed beside them, from a checkout or not."""
    listed = Path(shown(capsys, "--constraints").strip())
    assert listed.parent == Path(cli.__file__).parent and "\nray==" in listed.read_text()
    assert listed.read_text() == (Path(__file__).parents[1] / "constraints.txt").read_text()


@pytest.mark.parametrize("verb", [v for v in cli.VERBS if v not in ("distill", "tune")])
def test_a_verb_that_is_told_nothing_says_what_it_wants(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """distill and tune have the quickstart."""
    assert cli.main([verb]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {verb} must be told what to work on, for example: raydistill {verb} ")
    assert cli.main(["help", f"{verb}q"]) == 2 and f"did you mean '{verb}'?" in capsys.readouterr().err
