"""A sweep from its configuration to its end, stopped and continued, with trials that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sweep
import torch
from samples import write_student
from tiny_run import few

from raydistill.config import Config, changed, load
from raydistill.distributed import students
from raydistill.distributed.failures import translate
from raydistill.errors import BadInput, OutOfMemory, StageFailed
from raydistill.pipeline import steps
from raydistill.report.text import minus
from raydistill.results import over_images
from raydistill.results.pairing import TrainingOutcome
from raydistill.results.statistics import Z
from raydistill.stages.runner import one_by_one, serial
from raydistill.stages.syntheses.sample import Maker
from raydistill.tune import sweep, verdict
from raydistill.tune.drawing import Candidate, Drawing
from raydistill.tune.trials import Measurement

SCALE = {"guidance": {"scale": "loguniform(0.01,0.5)"}}
FILES = ("study.json", "best.yaml", "study.html")


def study(config: Config) -> dict[str, Any]:
    return json.loads((Path(config.run_dir or "") / "study.json").read_text())


def files(config: Config) -> list[bytes]:
    return [(Path(config.run_dir or "") / name).read_bytes() for name in FILES]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return tiny_sweep.without_ray(monkeypatch)


def test_the_winner_is_measured_again_and_tested_once_beside_the_default(
    fits: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each by seeds of its own; best.yaml is a configuration that a run takes."""
    config = tiny_sweep.config(tmp_path / "run", SCALE, price_per_hour=3.6)
    sweep.main(config)
    body = study(config)
    assert [t["trial"] for t in body["trials"]] == list(range(6)) and len(body["again"]) == 2
    seeds = [{r["seed"] for r in m["trainings"]} for m in (body["default"], *body["trials"], *body["again"])]
    assert seeds == [{0, 1}] * 7 + [{2, 3}] * 2
    assert fits == [6, 4, 4, 6, 4], "default and two trials, twice two trials, three again, two on the test images"
    news = json.loads((tmp_path / "run" / "logs" / "news.json").read_text())["sweep"]
    counts = {key: news[key] for key in ("trials", "of", "sets", "of_sets", "counted")}
    assert '<a href="../study.html">' in (tmp_path / "run" / "logs" / "status.html").read_text()
    assert counts == {"trials": 6, "of": 6, "sets": 20, "of_sets": 24, "counted": 20}, "all but those of the test"
    best = load(str(tmp_path / "run" / "best.yaml"))
    assert best.guidance.scale == body["winner"]["values"]["guidance.scale"]
    assert best.source.search_split == 0 and best.tune == Config().tune and best.run_dir == "runs/best"
    page = (tmp_path / "run" / "study.html").read_text()
    verdict = minus(body["verdict"][0].upper() + body["verdict"][1:])
    assert f"<h1>{verdict}</h1>" in page and page.count("<polyline") == 6 and "<script" not in page
    test = body["scores"]["test"]
    assert test["difference"]["mean"] == pytest.approx(test["winner"]["mean"] - test["default"]["mean"])
    of_trainings = max(p.stat().st_mtime_ns for p in (tmp_path / "run" / "evaluations").rglob("*.json"))
    assert (tmp_path / "run" / "logs" / "tune-seconds.json").stat().st_mtime_ns > of_trainings, "finals count"
    fits.clear()
    before = files(config)
    assert "nothing was left to do" not in capsys.readouterr().err
    sweep.main(config)
    assert fits == [] and files(config) == before and body["money"]["hours"] > 0, "a finished sweep costs no more"
    assert f"nothing was left to do\ntune          {body['verdict']}" in capsys.readouterr().err


def test_a_finished_sweep_whose_images_are_others_is_another_one(
    fits: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the same place, by the same command."""
    small = {"samples": 2, "seeds": 1, "finalists": 1}
    config = tiny_sweep.config(tmp_path / "run", SCALE, **small)
    sweep.main(config)
    fits.clear()
    real = tiny_sweep.few_images

    def fewer(config: Config) -> Any:
        p = real(config)
        return replace(p, splits=replace(p.splits, train=few(p.splits.train, 18)))

    monkeypatch.setattr(sweep, "prepare", fewer)
    sweep.main(config)
    assert sum(fits) == 1 + 2 + 2 + 2 + 4 and "nothing was left" not in capsys.readouterr().err


def test_a_sweep_that_was_killed_ends_as_one_that_was_not(fits: list[int], tmp_path: Path) -> None:
    """The same suggestions, the same files; no training is done twice."""
    whole = tiny_sweep.config(tmp_path / "whole", SCALE)
    sweep.main(whole)
    trained = sum(fits)
    fits.clear()
    broken = tiny_sweep.config(tmp_path / "broken", SCALE)
    tiny_sweep.killed_in_round(3, lambda: sweep.main(broken))
    assert sum(fits) == 10 and not (tmp_path / "broken" / "study.json").exists()
    sweep.main(broken)
    assert files(broken) == files(whole) and sum(fits) == trained


def test_a_student_knob_samples_nothing_and_equal_sets_are_trained_once(fits: list[int], tmp_path: Path) -> None:
    """Three learning rates of one set a seed: the folder of syntheses holds these sets alone."""
    config = tiny_sweep.config(
        tmp_path / "run", {"evaluate": {"protocol": {"lr": [0.001, 0.01, 0.1]}}}, search="grid", together=3
    )
    sweep.main(config)
    assert len(list((tmp_path / "run" / "syntheses").iterdir())) == 6, "a set a seed, of 2 + 2 + 2 seeds"
    assert [t["values"] for t in study(config)["trials"]] == [{"evaluate.protocol.lr": lr} for lr in (0.001, 0.01, 0.1)]


def test_a_trial_that_fails_ends_nothing_but_itself(
    fits: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose samples are not finite, and one whose values contradict each other."""
    real = Drawing.plan

    def plan(self: Drawing, candidate: Any, seed: int, batch: Any) -> Any:
        if candidate.values.get("guidance.stop") == 0.1:
            raise StageFailed("generator: DIR gave a non-finite prediction at t=632 in float32; lower guidance.scale")
        return real(self, candidate, seed, batch)

    monkeypatch.setattr(Drawing, "plan", plan)
    config = tiny_sweep.config(tmp_path / "run", {"guidance": {"stop": [0.0, 0.1, 1.0]}}, search="grid")
    sweep.main(config)
    _, lost, contradiction = study(config)["trials"]
    assert "non-finite" in lost["failed"] and "guidance.start" in contradiction["failed"]
    assert study(config)["winner"]["values"] == {"guidance.stop": 0.0}
    page = (tmp_path / "run" / "study.html").read_text()
    assert "non-finite" in page


def test_a_full_gpu_halves_the_batch_of_the_trial_and_its_row_says_so(
    fits: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps fill it with batches of more than one; four fill it always. The rest keeps its batch of four."""
    real = Maker.__call__

    def full(self: Maker, prototypes: Any, *rest: Any) -> Any:
        if self.sampling.steps >= 3 and len(prototypes) > (1 if self.sampling.steps == 3 else 0):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return real(self, prototypes, *rest)

    monkeypatch.setattr(Maker, "__call__", full)
    monkeypatch.setattr(steps, "together_on_ray", lambda p, nodes: one_by_one(translated(serial)))
    config = tiny_sweep.config(tmp_path / "run", {"sampler": {"steps": [2, 3, 4]}}, search="grid", seeds=1)
    sweep.main(config)
    plain, halved, lost = study(config)["trials"]
    assert "halved" not in plain and halved["halved"] == 1 and halved["values"]["sample.batch"] == 1
    assert lost["failed"] == "sample: out of memory: CUDA out of memory; lower sample.batch"
    assert "the GPU was full: sample.batch was halved to 1" in (tmp_path / "run" / "study.html").read_text()
    lines = [load(str(tmp_path / "run" / "best.yaml")).sample.batch, study(config)["winner"]["values"]]
    assert lines[0] == lines[1].get("sample.batch", 4)


def test_a_student_that_fills_the_gpu_ends_its_own_trial_and_no_other_of_its_fit(
    fits: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(job: Any, *rest: Any) -> None:
        if any(t.set.name == "trial 1" for t in job.trainings):
            raise OutOfMemory("evaluate: out of memory: CUDA out of memory; lower evaluate.width")
        tiny_sweep.fit(job, *rest)

    monkeypatch.setattr(students, "fit", full)
    config = tiny_sweep.config(tmp_path / "run", {"sampler": {"steps": [2, 3, 4]}}, search="grid", seeds=1)
    sweep.main(config)
    assert [t["failed"] != "" for t in study(config)["trials"]] == [False, True, False]
    assert "lower evaluate.width" in study(config)["trials"][1]["failed"]


def translated(execute: Any) -> Any:
    """What a pool makes of an error that a worker raised."""

    def executed(stage: Any, todo: Any) -> Any:
        try:
            yield from execute(stage, todo)
        except torch.OutOfMemoryError as e:
            raise translate(e, stage.name) from e

    return executed


def test_what_is_no_fault_of_a_trial_ends_the_sweep(
    fits: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(self: Drawing, candidate: Any, seed: int, batch: Any) -> Any:
        raise StageFailed("no space left on the device")

    monkeypatch.setattr(Drawing, "plan", plan)
    with pytest.raises(StageFailed, match="no space left"):
        sweep.main(tiny_sweep.config(tmp_path / "run", SCALE))


def test_several_objectives_have_a_front(fits: list[int], tmp_path: Path) -> None:
    config = tiny_sweep.config(
        tmp_path / "run", {"sampler": {"steps": [2, 3, 4]}}, search="grid", objectives=["accuracy", "network_calls"]
    )
    sweep.main(config)
    body = study(config)
    assert [t["objectives"]["network_calls"] for t in body["trials"]] == [2, 3, 4] and 0 in body["front"]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["acuracy"], "no evaluation gives 'acuracy'; did you mean 'accuracy'?"),
        (["l2/nowhere"], "no evaluation gives 'l2/nowhere'; did you mean 'l2/latent'?"),
        (["accuracy", "accuracy"], "twice"),
    ],
)
def test_an_objective_that_nobody_gives_is_refused(names: list[str], line: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=line):
        sweep.main(tiny_sweep.config(tmp_path / "run", SCALE, objectives=names))
    assert not (tmp_path / "run").exists()


def test_an_objective_is_of_the_space_in_which_its_metric_is_computed(tmp_path: Path) -> None:
    """Where a network makes features, of that network."""
    network = {"features": {"path": str(write_student(tmp_path / "network"))}}
    config = tiny_sweep.config(tmp_path / "run", SCALE, objectives=["l2/latent"])
    assert sweep.objectives.directions(config) == {"l2/latent": "min"}
    with pytest.raises(BadInput, match="no evaluation gives 'l2/latent'; did you mean") as line:
        sweep.planned(changed(config, {"features.path": network["features"]["path"]}))
    meant = str(line.value).split("did you mean '")[1].partition("'")[0]
    remedied = {"features.path": network["features"]["path"], "tune.objectives": [meant]}
    sweep.planned(changed(config, remedied))


def test_calls_are_an_objective_only_of_what_asks_a_network(tmp_path: Path) -> None:
    config = tiny_sweep.config(
        tmp_path / "run", {"evaluate": {"protocol": {"lr": [0.01, 0.1]}}}, objectives=["network_calls"]
    )
    with pytest.raises(BadInput, match=r"tune\.objectives=network_calls: random asks no network"):
        sweep.planned(changed(config, {"method": "random"}))
    sweep.planned(config)


def test_a_seed_leaves_room_for_those_after_it(tmp_path: Path) -> None:
    config = changed(tiny_sweep.config(tmp_path / "run", SCALE), {"seed": 2**63 - 1})
    with pytest.raises(BadInput, match="a sweep draws by 5 seeds after it") as line:
        sweep.planned(config)
    last = int(str(line.value).split("lower it to ")[1].split()[0])
    assert sweep.planned(changed(config, {"seed": last})).config.seed == last == 2**63 - 6


def test_a_lead_that_two_seeds_give_to_the_image_is_no_certainty() -> None:
    """Of 400 test images ten more are right by either seed: the interval is not that of the images alone."""

    def measured(name: str, right: int) -> Measurement:
        answers = (np.arange(400) < right,)
        outcomes = [
            TrainingOutcome(name, name, "convnet", s, s, right / 400, right / 400, "test", answers) for s in (0, 1)
        ]
        return Measurement(Candidate(name), tuple(outcomes))

    lead = verdict.stand(verdict.TEST, measured("trial 1", 210), measured("default", 200), "top-1").difference
    of_images = over_images.error([((np.arange(400) < 210,), (np.arange(400) < 200,))])
    assert lead.low is not None and lead.mean == pytest.approx(0.025)
    assert lead.mean - lead.low > 1.05 * Z * of_images
    same = verdict.stand(verdict.TEST, measured("trial 1", 200), measured("default", 200), "top-1").difference
    assert (same.low, same.mean, same.high) == (0.0, 0.0, 0.0), "a trial that is the default"
