"""A whole run that is tracked: what MLflow has of it is what the run directory has, and it is there once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished import without_ray
from running import TINY

from raydistill import cli
from raydistill.config import load
from raydistill.pipeline import tracked
from raydistill.tracking import uploader


def command(run: Path, *more: str) -> int:
    with without_ray():
        return cli.main(["distill", *TINY, f"run_dir={run}", *more])


def only_run(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("raydistill").experiment_id])
    return run


def test_a_run_is_in_mlflow_as_in_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(uploader, "GATHER_S", 0.1)
    run, uri = tmp_path / "runs" / "a", f"sqlite:///{tmp_path}/mlflow.db"
    assert command(run, "tracking.uri=local") == 0
    assert f"look: mlflow ui --backend-store-uri {uri}" in capsys.readouterr().err
    tracked, client = only_run(uri), MlflowClient(uri)
    assert tracked.info.status == "FINISHED"
    flat = json.loads((run / "result.json").read_text())
    assert {k: v for k, v in tracked.data.metrics.items() if k in flat} == flat and len(flat) > 40
    assert tracked.data.metrics["nfe/mgd3"] == 3 and tracked.data.metrics[
        "effective_sample_size/mgd3"
    ] == pytest.approx(8, 1)
    curve = client.get_metric_history(tracked.info.run_id, "curve/convnet/mgd3")
    assert [m.step for m in curve] == [32, 64] and curve[-1].value == flat["accuracy/convnet/mean"]
    assert tracked.data.params["sampler.steps"] == "3" and tracked.data.tags["raydistill.method"] == "mgd3"
    assert {d.tags[0].value for d in tracked.inputs.dataset_inputs} == {"source", "testing", "distilled"}
    names = [a.path for folder in (None, "images") for a in client.list_artifacts(tracked.info.run_id, folder)]
    assert names[:5] == ["config.yaml", "images", "report.html", "result.json", "trainings.json"]
    assert names[5:] == ["images/mgd3.png", "images/random.png"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["tracking"] == {"experiment": "raydistill", "trainings": False, "uri": uri}

    assert command(run, "tracking.uri=local") == 0  # again
    again = only_run(uri)
    assert (again.info.run_id, again.info.end_time) == (tracked.info.run_id, tracked.info.end_time)
    assert again.data.metrics.keys() == tracked.data.metrics.keys()
    assert [len(client.get_metric_history(tracked.info.run_id, k)) for k in flat] == [1] * len(flat)
    capsys.readouterr()
    assert cli.main(["verify", str(run)]) == 0
    assert "nothing is wrong" in capsys.readouterr().err


def test_what_is_run_makes_the_run_and_not_where_or_with_how_much() -> None:
    same = ["run_dir=elsewhere", "ray.num_cpus=2", "sample.actors=3", "evaluate.num_gpus=1", "tracking.uri=local"]
    assert tracked.key(load("quickstart", same)) == tracked.key(load())
    assert len({tracked.key(load("quickstart", [k])) for k in ("ipc=3", "seed=1", "guidance.scale=0.2")}) == 3


@pytest.mark.parametrize("verb", ["distill", "tune"])
@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("http://me:hush-hush@127.0.0.1:1", "MLFLOW_TRACKING_PASSWORD"),
        ("http://127.0.0.1:1", "raydistill track RUN"),
        ("nonsense://x", "MLflow knows no"),
    ],
)
def test_where_it_cannot_be_told_is_refused_beforehand(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, uri: str, word: str, verb: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    line = refused(verb, f"tracking.uri={uri}")
    assert word in line and "hush-hush" not in line
