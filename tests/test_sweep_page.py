"""What a sweep of two objectives leaves: its page, a page a trial, and how verify brings back what it lost."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sweep as result_of_sweep
import tiny_sweep
import yaml
from spoil import flip

from raydistill import cli, registry
from raydistill.config import load
from raydistill.pipeline import job, preflight, steps
from raydistill.report.text import minus
from raydistill.stages.runner import one_by_one, serial
from raydistill.store import inspection
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir
from raydistill.tune import cells, grids, page, sweep
from raydistill.tune.parallel import BOTTOM, HEIGHT, TOP, parallel
from raydistill.tune.space import Knob, space

SPACE = {"sampler": {"steps": [2, 3]}, "guidance": {"scale": [0.01, 0.4]}}
TUNE = {"search": "grid", "samples": 4, "together": 4, "seeds": 1, "objectives": ["accuracy", "network_calls"]}
MONEY = {"price_per_hour": 3.6, "budget": 5.0}


@dataclass
class Finished:
    root: Path
    study: dict[str, Any]
    page: str
    pools: list[list[int]] = field(default_factory=list)  # batches of the sets that were sampled at once
    files: list[Path] = field(default_factory=list)  # of the sweep alone: runs that share its artifacts add theirs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    root, pools = tmp_path_factory.mktemp("sweep") / "run", list[list[int]]()

    def together(p: Any, nodes: Any) -> Any:
        def execute(asked: Any) -> Any:
            pools.append([len(todo) for _, todo in asked])
            return one_by_one(serial)(asked)

        return execute

    with pytest.MonkeyPatch.context() as m:
        tiny_sweep.without_ray(m)
        m.setattr(steps, "together_on_ray", together)
        m.setattr(inspection, "AGAIN_S", 0.0)
        sweep.main(tiny_sweep.config(root, SPACE, **TUNE, **MONEY))
        study = json.loads((root / "study.json").read_text())
        yield Finished(root, study, (root / "study.html").read_text(), pools, sorted(root.rglob("*")))


def test_the_sets_of_a_round_are_sampled_at_once(finished: Finished) -> None:
    """The default and four trials by one seed; two finalists and the default by two; on the test images two by two."""
    batches = [2] * 4
    assert finished.pools[0][:4] == batches and [len(p) for p in finished.pools] == [5, 6, 4]


def test_the_page_shows_the_front_the_knobs_and_images(finished: Finished) -> None:
    text = finished.page
    assert text.count('class="effect pareto"') == 1 and text.count("<circle") == 4 + 2 * 4
    assert "Which knobs mattered" in text and set(finished.study["importance"]) <= {"sampler.steps", "guidance.scale"}
    assert sum(finished.study["importance"].values()) == pytest.approx(1, abs=0.01)
    best, worst = (f"The {which}: trial" for which in ("best", "worst"))
    assert best in text and worst in text and text.count("<img") == 2 * 6, "two classes of three images, twice"
    assert "<script" not in text and 'alt=""' not in text and "accuracy, %</text>" in text
    assert "network calls an image</text>" in text and ">network calls an image</th>" in text
    assert text.partition("<h1>")[2].startswith("Trial ") and not re.search(r"[ [>]-\d", text.partition("</style>")[2])


def test_a_result_page_shows_the_study_that_is_kept(finished: Finished, tmp_path: Path) -> None:
    """benchmarks/results/sweep.py: the verdict, winner and default at all three, and every trial with the default."""
    args = result_of_sweep.arguments(["--row", "mgd3", "--out", str(tmp_path)])
    assert result_of_sweep.summary(args) == ""
    cells.write(result_of_sweep.path(args), {"study": finished.study, "seconds": 95.0})
    text = result_of_sweep.summary(args)
    assert text.startswith(f"**{minus(finished.study['verdict'])}.** 4 trials by grid over sampler.steps of 2, 3;")
    assert "; 2 minutes." in text and "| trial | sampler.steps | guidance.scale | held out, % |" in text
    assert "plot.svg" not in text
    result_of_sweep.plot(finished.study, tmp_path / "plot.svg")
    assert f"](../../benchmarks/results/{tmp_path.name}/plot.svg)" in result_of_sweep.summary(args)
    rows = [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("| ")]
    assert set(rows) >= {*(f"trial {i}" for i in range(4)), "default", "test images, by further seeds"}
    for luck, said in ((0.011, "1.1 points did not come again"), (-0.011, "By other seeds the lead was no smaller")):
        cells.write(result_of_sweep.path(args), {"study": {**finished.study, "luck": luck}, "seconds": 95.0})
        assert said in result_of_sweep.summary(args)


@pytest.mark.parametrize("word", ["--dry-run", "--print-config"])
def test_the_script_of_a_sweep_says_what_would_be_done(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the verb does, and neither keeps a study nor misses one."""
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert result_of_sweep.main(["--row", "mgd3", "--config", "quickstart", *places, "--", word]) == 0
    said = "would be searched; nothing is written" if word == "--dry-run" else "tune:"
    assert said in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_every_sweep_of_the_result_pages_can_be_planned() -> None:
    """Rows of benchmarks/results/sweeps.yaml: knobs that the method reads, and the default among what is searched."""
    for overrides in yaml.safe_load(result_of_sweep.ROWS.read_text()).values():
        config = load("nette128", overrides)
        knobs = space(config).knobs
        assert len(knobs) == sum(override.startswith("tune.space.") for override in overrides)
        prescribed = {"sampler.steps": registry.get("method", config.method).steps, "weights.mode": "uniform"}
        for knob in knobs:
            section, _, name = knob.key.partition(".")
            default = prescribed.get(knob.key, config.tree()[section][name])
            assert default in knob.choices if knob.choices else knob.low <= default <= knob.high


@pytest.mark.parametrize(("space", "middle"), [("loguniform", 0.5), ("uniform", 9 / 99)])
def test_a_knob_stands_on_its_axis_as_it_was_searched(space: str, middle: float) -> None:
    """Trials at 1, 10 and 100: 10 is half-way up in logarithms. Accuracy, the last axis, is never logarithmic."""
    key, accuracies = "guidance.scale", (0.1, 0.5, 0.4)
    trials = [
        {"name": f"trial {i}", "values": {key: 10.0**i}, "failed": "", "stopped": 0, "score": {"mean": a}}
        for i, a in enumerate(accuracies)
    ]
    knob = Knob(key, 1.0, 100.0, log=space == "loguniform")
    drawn = parallel({"trials": trials, "knobs": [key], "space": [str(knob)], "winner": {"trial": "trial 1"}})
    (line,) = re.findall(r'class="trial main" points="([^"]*)"', drawn)
    heights = [float(point.split(",")[1]) for point in line.split()]
    bottom, top = HEIGHT - BOTTOM, TOP
    assert heights == pytest.approx([bottom - middle * (bottom - top), top], abs=0.1)


def test_money_is_told_only_with_a_price(finished: Finished) -> None:
    money = finished.study["money"]
    assert money["spent"] == pytest.approx(3.6 * money["hours"]) and money["left"] == 5.0 - money["spent"]
    assert f"{money['spent']:.2f} of 5.00 spent, {money['left']:.2f} left" in finished.page
    assert "spent" not in page.render({**finished.study, "money": None})


def test_each_trial_has_a_page_whose_command_finds_its_images(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is followed up to the images, which are not sampled again."""
    assert all(f'href="trials/{i}.html"' in finished.page for i in range(4))
    text = (finished.root / "trials" / "3.html").read_text()
    command = text.partition("<pre>")[2].partition("</pre>")[0].split()
    assert command[:3] == ["raydistill", "distill", "--config"] and text.count("<img") == 6
    config = load(command[3], [*command[4:], f"run_dir={tmp_path / 'trial'}"])
    tiny_sweep.without_ray(monkeypatch)
    job.run(tiny_sweep.few_images(config), "sample")
    assert "sample mgd3   finished before: 6 images" in capsys.readouterr().err
    assert (tmp_path / "trial" / "distilled").exists()


@pytest.mark.parametrize("store", ["", "s3://bucket/folder?endpoint_override=localhost:9000&scheme=http"])
def test_the_command_of_a_trial_says_its_values_wherever_the_run_is(store: str, tmp_path: Path) -> None:
    """Also nothing, and yes and no, which a command line writes otherwise than Python."""
    plan = sweep.planned(tiny_sweep.config(tmp_path / "run", SPACE, **TUNE))
    root = store or str(tmp_path / "run")
    p = replace(plan.held_out, run=RunDir(root, f"{tmp_path}/artifacts"))
    values = {"guidance.form": None, "evaluate.protocol.flip": False, "evaluate.protocol.lr": 0.01, "sampler.steps": 3}
    words = shlex.split(grids.command({"trial": 7, "values": values}, replace(plan, held_out=p)))
    assert words[:4] == ["raydistill", "distill", "--config", str(Location.of(root) / "config.yaml")]
    config = load("quickstart", words[4:])
    assert (config.guidance.form, config.evaluate.protocol.flip) == (None, False)
    assert (config.evaluate.protocol.lr, config.sampler.steps) == (0.01, 3)
    assert config.run_dir == (store.replace("folder?", "folder-trial-7?") or f"{tmp_path}/run-trial-7")
    (yes,) = shlex.split(grids.command({"trial": 7, "values": {"evaluate.protocol.dsa": True}}, plan))[-1:]
    assert yes == "evaluate.protocol.dsa=true"


def trials_of(key: str, values: list[Any]) -> dict[str, Any]:
    """A study of trials with these values of a knob, and what is drawn of it."""
    kept = [
        {"name": f"trial {i}", "trial": i, "values": {} if v == "missing" else {key: v}, "failed": "", "stopped": 0,
         "score": {"mean": 0.1 * (i + 1), "low": None, "high": None}}
        for i, v in enumerate(values)
    ]  # fmt: skip
    default = {"score": {"mean": 0.2, "low": None, "high": None}}
    return {"trials": kept, "knobs": [key], "space": [], "winner": {"trial": "trial 0"}, "default": default}


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([None, None], ["null"]),
        ([None, "latent", None], ["null", "latent"]),
        ([64, None, 8], ["null", "8", "64"]),
        ([True, False], ["false", "true"]),
    ],
)
def test_null_is_a_value_with_a_place_of_its_own(values: list[Any], marks: list[str]) -> None:
    """On the axis of its knob and in its effect, in the words of a command line."""
    study = trials_of("guidance.form", values)
    drawn = parallel(study)
    assert re.findall(r'class="tick"[^>]*>([^<]*)</text>', drawn)[: len(marks)] == marks
    lines = re.findall(r'class="trial [a-z]+" points="([^"]*)"', drawn)
    assert len(lines) == len(values) and all(len(line.split()) == 2 for line in lines)
    places = {str(v): line.split()[0] for v, line in zip(values, lines, strict=True)}
    assert len(set(places.values())) == len(marks)
    shown = page.effect(study, "guidance.form")
    assert all(f">{mark}</text>" in shown for mark in marks) and shown.count("<circle") == len(values)


def test_a_trial_without_a_knob_has_no_place_on_its_axis() -> None:
    lines = re.findall(r'class="trial [a-z]+" points="([^"]*)"', parallel(trials_of("a.b", [None, "missing", 3])))
    assert [len(line.split()) for line in lines] == [2, 1, 2]


def test_verify_knows_a_sweep(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(finished.root)]) == 0
    assert capsys.readouterr().out == f"{finished.root}\n", "nothing is foreign, missing, damaged or left over"


@pytest.mark.parametrize("lost", ["syntheses", "evaluations", "best.yaml", "trials/0.html"])
def test_repair_gives_the_command_of_the_sweep(
    lost: str, finished: Finished, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that of a run: what was lost is there again, byte for byte, and there is no report.html."""
    tiny_sweep.without_ray(monkeypatch)
    whole = finished.root / lost
    path = whole if whole.is_file() else next(f for f in finished.files if f.match(f"{lost}/*/data/*"))
    before = path.read_bytes()
    flip(path)
    assert cli.main(["verify", str(finished.root)]) == 1
    assert cli.main(["verify", str(finished.root), "--repair"]) == 0, capsys.readouterr().err
    assert path.read_bytes() == before and not (finished.root / "report.html").exists()


def test_repair_of_a_sweep_whose_images_changed_touches_nothing(
    finished: Finished, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sweep, "prepare", preflight.prepare)  # all digits, where there were some of them
    shutil.copytree(finished.root, tmp_path / "run")
    path = sorted((tmp_path / "run" / "syntheses").glob("*/data/*"))[0]
    flip(path)
    spoiled = path.read_bytes()
    assert cli.main(["verify", str(tmp_path / "run"), "--repair"]) == 1
    assert "the images, the VAE" in capsys.readouterr().err and path.read_bytes() == spoiled
