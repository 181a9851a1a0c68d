"""Tracking against MLflow's own client: what comes to a store, what stays in the run directory, and that it is once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_servers import failing_server, real_server

from raydistill import config as configuration
from raydistill import signals
from raydistill.errors import BadInput, StageFailed
from raydistill.progress import Measured, Progress, tell
from raydistill.store.location import Location
from raydistill.tracking import destination, late, tracker, uploader
from raydistill.tracking.destination import Destination, TrackingConfig
from raydistill.tracking.journal import Journal, journals
from raydistill.tracking.server import Server
from raydistill.tracking.tracker import DataSet, Tracker, tracking
from raydistill.tune.tracked import located

EXPERIMENT = "tests"


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def root(tmp_path: Path) -> Location:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "page.html").write_text("<p>seen</p>")
    return Location.of(str(tmp_path / "run"))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits as short as they can be, so that no test is slow for them."""
    monkeypatch.setattr(uploader, "GATHER_S", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def runs(uri: str, root: Location) -> list[Any]:
    """The runs in a store that tell of this directory, the oldest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    ids = {j.card.id for j in journals(root)}
    runs = client.search_runs([experiment.experiment_id])
    return sorted((r for r in runs if r.data.tags.get("raydistill.id") in ids), key=lambda r: r.info.start_time)


def history(uri: str, run: Any, key: str) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, key)]


def work(told: Tracker) -> None:
    told.params({"ipc": 10, "source.classes": ["a", "b"]})
    told.metrics({"loss": 2.0}, 1)
    told.metrics({"loss": 1.0, "odd name!": 1.0, "nothing": float("nan")}, 2)
    told.file("page.html")
    told.dataset(DataSet("digits-train", "0" * 64, "raydistill://digits", "source", {"images": 3}))


def job(uri: str, root: Location, key: str = "k") -> None:
    with tracking(Destination(uri, EXPERIMENT), root) as told, told.run(key, "mine") as run, told.watching(run):
        work(run)
        with Progress("encode", "images", 3) as progress:
            progress.advance(3)
        tell(Measured("pretrain", 5, {"loss": 0.5}))


def check_whole(uri: str, root: Location) -> None:
    from mlflow.tracking import MlflowClient

    (run,) = runs(uri, root)
    assert run.info.status == "FINISHED" and run.info.run_name == "mine"
    assert run.data.params == {"ipc": "10", "source.classes": '["a","b"]'}
    assert history(uri, run, "loss") == [(1, 2.0), (2, 1.0)] and history(uri, run, "pretrain/loss") == [(5, 0.5)]
    assert {step for step, _ in history(uri, run, "stage_seconds/encode")} == {3}
    assert "odd name_" in run.data.metrics and "nothing" not in run.data.metrics
    (read,) = run.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest, read.tags[0].value) == ("digits-train", "0" * 36, "source")
    assert [a.path for a in MlflowClient(uri).list_artifacts(run.info.run_id)] == ["page.html"]
    assert run.data.tags["raydistill.command"] and len(run.data.tags["mlflow.source.git.commit"]) == 40


def test_a_run_comes_to_sqlite_whole_and_only_once(sqlite: str, root: Location) -> None:
    job(sqlite, root)
    check_whole(sqlite, root)
    (before,) = runs(sqlite, root)
    for _ in range(2):
        late.track(str(root), None, None)
    with pytest.raises(BadInput, match="uri=none is nowhere; give local"):
        late.track(str(root), "none", None)
    job(sqlite, root)  # the same command, again
    check_whole(sqlite, root)
    assert runs(sqlite, root)[0].info.run_id == before.info.run_id


@pytest.mark.slow  # the server alone takes ten seconds of CPU to start
def test_a_run_comes_to_a_server_and_to_another_store_later(
    server: str, sqlite: str, root: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # its first answer takes long
    monkeypatch.setattr(uploader, "LAST_S", 120.0)
    job(server, root)
    check_whole(server, root)
    assert f"{server}/#/experiments/" in late.track(str(root), server, None)
    late.track(str(root), sqlite, None)
    check_whole(sqlite, root)
    check_whole(server, root)


def test_one_run_after_a_kill_that_left_a_torn_line(sqlite: str, root: Location) -> None:
    where = Destination(sqlite, EXPERIMENT)
    killed = Tracker(Journal(root, "k"), upload := uploader.Uploader(where), "mine")
    killed.metrics({"loss": 2.0}, 1)
    assert upload.settle(60) == ""  # and nothing says how it ended
    (lines,) = (Path(root.uri) / "tracking" / "k").glob("*.jsonl")
    lines.write_bytes(lines.read_bytes() + b'0123456789abcdef {"kind":"metr')
    assert [r.info.status for r in runs(sqlite, root)] == ["RUNNING"]
    late.track(str(root), None, None)  # nobody works there any more
    assert [r.info.status for r in runs(sqlite, root)] == ["KILLED"]
    job(sqlite, root)
    check_whole(sqlite, root)


def test_no_orphan_if_the_run_id_could_not_be_kept(sqlite: str, root: Location) -> None:
    job(sqlite, root)
    card = Path(root.uri) / "tracking" / "k" / "card.json"
    card.unlink()
    (Path(root.uri) / "seals" / "tracking%2Fk%2Fcard.json.json").unlink()
    job(sqlite, root)
    check_whole(sqlite, root)


def test_another_configuration_in_the_directory_is_another_run(sqlite: str, root: Location) -> None:
    job(sqlite, root)
    job(sqlite, root, key="other")
    assert len(runs(sqlite, root)) == 2


@pytest.mark.parametrize(("error", "status"), [(StageFailed("disk full"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_the_state_in_which_a_run_ends(sqlite: str, root: Location, error: BaseException, status: str) -> None:
    with (
        pytest.raises(type(error)),
        tracking(Destination(sqlite, EXPERIMENT), root) as told,
        told.run("k", "mine"),
    ):
        raise error
    assert [r.info.status for r in runs(sqlite, root)] == [status]


def test_a_signal_is_the_last_word(sqlite: str, root: Location) -> None:
    with tracking(Destination(sqlite, EXPERIMENT), root) as told, told.run("k", "mine") as run:
        run.metrics({"loss": 1.0})
        assert told.uploader.settle(60) == ""
        with told.watching(run):
            signals._farewells[-1]()
    assert [r.info.status for r in runs(sqlite, root)] == ["KILLED"]


def test_children_stand_below_their_parent(sqlite: str, root: Location) -> None:
    with (
        tracking(Destination(sqlite, EXPERIMENT), root) as told,
        told.run("sweep", "sweep") as sweep,
        told.run("trial", "trial", parent=sweep) as trial,
        told.run("fit", "fit", parent=trial),
    ):
        trial.params({"guidance.scale": 0.1})
    late.track(str(root), None, None)
    by_name = {r.info.run_name: r for r in runs(sqlite, root)}
    assert len(by_name) == 3
    for child, parent in (("trial", "sweep"), ("fit", "trial")):
        assert by_name[child].data.tags["mlflow.parentRunId"] == by_name[parent].info.run_id


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "it answers 500"),
        ("507", "it answers 507"),
        ("hangs", "no answer in time"),
        ("dies", "the connection broke"),
        ("refuses", "connection refused"),
    ],
)
def test_a_server_that_fails_stops_no_job_and_gets_everything_later(
    fault: str,
    words: str,
    sqlite: str,
    root: Location,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploader, "LAST_S", 20.0)
    with failing_server("500" if fault == "refuses" else fault) as address:
        if fault != "refuses":
            job(address, root)
    if fault == "refuses":
        job(address, root)
    said = capsys.readouterr().err
    assert said.count("not everything is in") == 1 and f"raydistill track {root}" in said and f"({words})" in said
    assert late.track(str(root), sqlite, None)
    check_whole(sqlite, root)


class Dying:
    """MLflow's client whose store does what the n-th call asks for, dies before it answers, and does nothing more."""

    def __init__(self, client: Any, lasts: int) -> None:
        self.client, self.left = client, lasts

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **keys: Any) -> Any:
            self.left -= 1
            answer = getattr(self.client, name)(*args, **keys) if self.left >= 0 else None
            if self.left <= 0:
                raise ConnectionError("the connection broke")
            return answer

        return call


def test_a_store_that_dies_in_the_middle_of_any_request_has_the_run_whole_and_once_later(
    sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever request it is: what it had taken is not brought again, and there is no second run."""
    from mlflow.tracking import MlflowClient

    client, dead, requests = MlflowClient(sqlite), True, 0
    while dead:
        requests += 1
        root = Location.of(str(tmp_path / str(requests)))
        (root / "page.html").write(b"<p>seen</p>")
        dying = Dying(client, requests)
        with monkeypatch.context() as m:
            m.setattr(Server, "_client", dying)
            job(sqlite, root)
        dead = dying.left <= 0
        late.track(str(root), None, None)
        check_whole(sqlite, root)
    assert requests > 8, "the run, its state, parameters, numbers, files and datasets are requests of their own"


def test_nothing_of_a_secret_is_kept_or_uploaded(sqlite: str, root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "sesame-open-1")
    monkeypatch.setattr("sys.argv", ["distill.py", "run_dir=s3://key:sesame-open-1@bucket/x"])
    with tracking(Destination(sqlite, EXPERIMENT), root) as told, told.run("k", "sesame-open-1") as run:
        run.params({"a": "sesame-open-1", "b": ["sesame-open-1"]})
        run.tags({"c": "sesame-open-1"})
        run.end("FAILED", "sesame-open-1 is wrong")
    kept = b"".join(p.read_bytes() for p in Path(root.uri).rglob("*") if p.is_file())
    (uploaded,) = runs(sqlite, root)
    assert b"sesame" not in kept and "sesame" not in json.dumps(uploaded.to_dictionary(), default=str)
    assert (Path(root.uri) / "tracking" / "k" / "card.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("nonsense://x", "MLflow knows no 'nonsense'"),
        ("./mlruns", "sqlite:///./mlruns/mlflow.db"),
        ("sqlite:x", "FILE"),
    ],
)
def test_a_uri_that_mlflow_cannot_open_is_refused(uri: str, word: str) -> None:
    with pytest.raises(BadInput, match=r"tracking\.uri") as refused:
        where = destination.find(TrackingConfig(uri=uri))
        assert where is not None
        destination.check(where, new=True)
    assert word in str(refused.value)


def test_a_new_run_wants_an_answer_and_one_that_goes_on_does_not(tmp_path: Path) -> None:
    with failing_server("500") as address:
        pass
    for uri in (address, f"sqlite:///{tmp_path}/no/folder/mlflow.db"):
        where = Destination(uri, EXPERIMENT)
        assert destination.check(where, new=False)
        with pytest.raises(BadInput, match="raydistill track RUN"):
            destination.check(where, new=True)
    (tmp_path / "text.db").write_text("no database at all")
    with pytest.raises(BadInput, match="no SQLite database"):
        destination.check(Destination(f"sqlite:///{tmp_path}/text.db", EXPERIMENT), new=False)


def test_a_folder_without_records_says_how_to_get_some(root: Location) -> None:
    with pytest.raises(BadInput, match="computes nothing that is finished"):
        late.track(str(root), None, None)


def test_a_long_parameter_is_cut_and_says_where_it_is_whole() -> None:
    text = tracker._shortened("source.classes", ["n01440764"] * 1000)
    assert len(text) == 500 and text.endswith("(whole in config.yaml: source.classes)")


class TestOff:
    """Nowhere, also of a sweep, which goes to a file of its own where nothing is said."""

    @pytest.mark.parametrize("uri", ["off", "none", "None", "null", ""])
    def test_whoever_writes_nothing_means_nowhere(self, uri: str) -> None:
        config = configuration.load("quickstart", [f"tracking.uri={uri}"])
        assert located(config).tracking.uri == "off" and destination.find(config.tracking) is None
        assert destination.absolute(config.tracking) == config.tracking

    def test_a_sweep_that_says_nothing_is_tracked_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
        assert located(configuration.load()).tracking.uri == destination.LOCAL

    def test_a_file_may_say_it(self, tmp_path: Path) -> None:
        (tmp_path / "own.yaml").write_text("tracking: {uri: None}\n")
        assert configuration.load(str(tmp_path / "own.yaml")).tracking.uri == "off"
