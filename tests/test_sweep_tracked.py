"""A sweep in MLflow: a run for it, one for each trial below it, and one for each training below that if asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import tiny_sweep
from mlflow import MlflowClient
from mlflow.entities import Run

from raydistill import cli
from raydistill.config import changed
from raydistill.errors import BadInput
from raydistill.planning import rates
from raydistill.tracking import late
from raydistill.tune import sweep

SPACE = {"sampler": {"steps": [2, 3]}}
TUNE = {"search": "grid", "samples": 2, "seeds": 2, "finalists": 1, "objectives": ["accuracy", "seconds"]}


@pytest.mark.parametrize("trainings", [False, True])
def test_trials_are_children_and_trainings_their_children(
    trainings: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is finished can be told of later. Given again, with more workers too, they are the same runs."""
    fits = tiny_sweep.without_ray(monkeypatch)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    keys = {"tracking.uri": uri, "tracking.experiment": "sweeps", "tracking.trainings": trainings}
    (tmp_path / "r.json").write_text(rates.text(rates.RateRecord("a core", rates.CORE, None, "a stand-in")))
    keys["tune.rates"] = str(tmp_path / "r.json")
    config = changed(tiny_sweep.config(tmp_path / "run", SPACE, **TUNE), keys)
    sweep.main(changed(config, {"tracking.uri": "off"}))
    with pytest.raises(BadInput, match=r"own command again with tracking\.uri=\.\.\., which computes nothing"):
        late.track(str(tmp_path / "run"), None, None)
    fits.clear()
    ends = []
    for resources in ({}, {"sample.actors": 3, "evaluate.workers": 2, "ray.num_cpus": 7, "sample.deadline_s": 9.0}):
        sweep.main(changed(config, resources))
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("sweeps")
        assert experiment is not None
        runs = {r.info.run_id: r for r in client.search_runs([experiment.experiment_id])}
        ends.append({run_id: r.info.end_time for run_id, r in runs.items()})
    assert fits == [] and ends[0] == ends[1]
    parents = Counter(r.data.tags.get("mlflow.parentRunId", "") for r in runs.values())
    (root,) = (r for r in runs.values() if "mlflow.parentRunId" not in r.data.tags)
    trials = [r for r in runs.values() if r.data.tags.get("mlflow.parentRunId") == root.info.run_id]
    assert sorted(r.data.params["sampler.steps"] for r in trials) == ["2", "3"] and parents[root.info.run_id] == 2
    assert [parents[r.info.run_id] for r in trials] == [2 if trainings else 0] * 2, "a training a seed"
    assert len(runs) == (1 + 2 + 4 if trainings else 1 + 2)
    assert {r.info.status for r in runs.values()} == {"FINISHED"}
    assert all(r.data.metrics["seconds"] > 0 < r.data.metrics["network_calls"] for r in trials)
    below = [r for r in runs.values() if r.data.tags.get("mlflow.parentRunId") == trials[0].info.run_id]
    check_contents(client, root, trials)
    mean = sum(r.data.metrics["accuracy"] for r in below) / len(below) if below else trials[0].data.metrics["accuracy"]
    assert mean == pytest.approx(trials[0].data.metrics["accuracy"])


def check_contents(client: MlflowClient, sweep_run: Run, trials: list[Run]) -> None:
    """What stands in MLflow's pages: images and sets by their digests, curves over visits, files."""
    contexts = {d.tags[0].value: d.dataset.digest for d in sweep_run.inputs.dataset_inputs}
    assert len(set(contexts.values())) == 3 and set(contexts) == {"source", "held out", "testing"}
    assert sweep_run.data.tags["raydistill.method"] == "mgd3"
    assert sweep_run.data.tags["mlflow.note.content"] == f"{sweep_run.data.tags['raydistill.verdict']}."
    files = {a.path for a in client.list_artifacts(sweep_run.info.run_id)}
    assert files == {"best.yaml", "config.yaml", "study.html", "study.json", "trials"}
    pages = {a.path for a in client.list_artifacts(sweep_run.info.run_id, "trials")}
    assert pages == {"trials/0.html", "trials/1.html"}
    sets = {d.dataset.digest for r in trials for d in r.inputs.dataset_inputs}
    assert len(sets) == 2, "a distilled set a trial"
    for r in trials:
        assert [a.path for a in client.list_artifacts(r.info.run_id, "images")] == ["images/mgd3.png"]
        assert r.data.metrics["effective_sample_size"] == 3, "a class has three images, all of one weight"
        curve = client.get_metric_history(r.info.run_id, "curve/convnet")
        assert len(curve) > 1 and curve[-1].step > curve[0].step
        assert curve[-1].value == pytest.approx(r.data.metrics["accuracy"])


def test_other_verbs_do_not_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["distill", "tracking.trainings=true"]) == 2
    assert "tracking.trainings: distill does not read it, tune does" in capsys.readouterr().err
