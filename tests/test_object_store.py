"""On S3 as on a disk: artifacts, sources, a whole run, and its end when it is interrupted anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import boto3
import pytest
from artifacts import at, work
from object_store import Store, endpoint
from running import product
from samples import config, parquet_set, tar_set, write_folder
from stores import (
    Reference,
    assert_a_run_on_ray_ends_with_a_report,
    assert_it_ends_when_every_write_was_interrupted_once,
    assert_it_holds_what_was_written,
)
from tiny_run import STAGES, TinyRun, watched

from raydistill import cli
from raydistill import config as configuration
from raydistill.distributed.visibility import laid_out, needs, probe, unanswered
from raydistill.errors import BadInput, CorruptArtifact
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.sources.base import open_source, open_splits
from raydistill.stages.runner import serial
from raydistill.store import seals
from raydistill.store.artifact import Manifest
from raydistill.store.location import Location
from raydistill.store.rundir import MARKER, RunDir


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with endpoint() as running:
        yield running


@pytest.fixture
def folder(store: Store) -> str:
    return store.folder()


def content_type(store: Store, location: Location) -> str:
    """As the store tells it whoever follows a presigned link."""
    endpoint_url = f"http://{store.options.partition('=')[2].partition('&')[0]}"
    bucket, _, key = store.path(location.uri).partition("/")
    client = boto3.client("s3", endpoint_url=endpoint_url)
    with urlopen(client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key})) as answer:
        return str(answer.headers["Content-Type"])


class TestLocations:
    def test_hold_what_was_written(self, folder: str) -> None:
        assert_it_holds_what_was_written(folder)

    def test_tell_a_browser_which_of_them_are_pages(self, store: Store, folder: str) -> None:
        page, news = (Location.of(folder) / "logs" / name for name in ("status.html", "news.json"))
        for location in (page, news):
            location.write(b"<p>")
        assert content_type(store, page) == "text/html; charset=utf-8" != content_type(store, news)

    def test_are_one_place_with_and_without_a_slash_at_the_end(self, folder: str) -> None:
        path, mark, options = folder.partition("?")
        assert Location.of(f"{path}/{mark}{options}") == Location.of(folder)

    def test_a_number_sign_in_a_uri_is_written_otherwise(self, folder: str) -> None:
        path, mark, options = folder.partition("?")
        with pytest.raises(BadInput, match="# ends the path of a URI; write %23") as refusal:
            Location.of(f"{path}/exp#3{mark}{options}")
        location = Location.of(str(refusal.value).rpartition(" ")[2])
        (location / "a").write(b"1")
        assert location.name == "exp#3" and location.list() == ["a"] and Location.of(folder).list() == ["exp#3"]

    def test_age_is_the_age_of_writing(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        location = Location.of(folder)
        for name in ("b", "a"):
            (location / name).write(b"")
        by_age = sorted(location.infos(), key=lambda i: (i.mtime_ns, i.base_name))
        assert location.list_by_age() == [i.base_name for i in by_age]


class TestRunDirectories:
    def test_are_claimed_and_recognised(self, folder: str) -> None:
        run = RunDir(folder)
        run.check()
        run.claim()
        run.check()
        assert Location.of(folder).list() == [MARKER]

    def test_of_somebody_else_are_refused(self, folder: str) -> None:
        (Location.of(folder) / "thesis.tex").write(b"")
        with pytest.raises(BadInput, match=r"holds 'thesis.tex' and is not a raydistill run directory"):
            RunDir(folder).check()

    def test_in_a_bucket_that_is_not_there_are_refused(self, store: Store) -> None:
        with pytest.raises(BadInput, match="in a bucket that does not exist; make it or correct its name"):
            RunDir(f"s3://nobody-made-this/run{store.options}").check()

    def test_prove_that_they_are_shared_and_keep_no_trace(self, store: Store, folder: str, tiny_folder: Path) -> None:
        source = config("imagefolder", store.upload(tiny_folder))
        splits = open_splits(source)
        it = needs(RunDir(folder), source, [splits.train, splits.test], {})
        with laid_out(it, ["node"]):
            assert probe(it, "node") == [] and unanswered(it, "node") == []
            assert unanswered(it, "other") == [f"run_dir {folder}"]
        assert store.files(folder) == {}
        assert probe(it, "node") == [f"run_dir {folder}"]


class TestArtifacts:
    def test_hold_as_disks_do(self, folder: str, undisturbed: Manifest) -> None:
        assert at(folder).records() == {} and at(folder).manifest() is None
        assert work(at(folder)) == work(at(folder)) == undisturbed
        at(folder).verify(undisturbed.records)
        (at(folder).location / undisturbed.records[0].file).delete()
        with pytest.raises(CorruptArtifact, match="is missing"):
            at(folder).verify(undisturbed.records)


SETS: dict[str, Callable[[Path], Path]] = {
    "imagefolder": lambda path: write_folder(path, {"train": 4, "val": 2}),
    "parquet": parquet_set,
    "webdataset": tar_set,
}


@pytest.mark.parametrize("kind", SETS)
def test_a_source_lists_and_reads_as_on_a_disk(kind: str, store: Store, tmp_path: Path) -> None:
    local = SETS[kind](tmp_path / "set")
    here, there = (open_source(config(kind, root)) for root in (local, store.upload(local)))
    for split in ("train", "val"):
        a, b = here.list(split), there.list(split)
        assert (a.classes, a.ids.to_pylist(), a.labels.tolist()) == (b.classes, b.ids.to_pylist(), b.labels.tolist())
        ids = a.ids.to_pylist()[::-1]
        assert list(there.read(split, ids)) == list(here.read(split, ids))
        assert there.list(split).digest == b.digest, "the same objects are the same listing"


@pytest.mark.parametrize("kind", SETS)
def test_a_source_that_is_not_there_is_refused(kind: str, store: Store) -> None:
    with pytest.raises(BadInput, match=r"source.path: s3://.* does not exist"):
        open_source(config(kind, store.folder())).list("train")


class TestRuns:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
        """The manifests of the run on a disk."""
        return TinyRun(tmp_path_factory.mktemp("disk") / "run").finish()

    @pytest.mark.slow
    def test_end_as_on_a_disk_when_every_write_was_interrupted_once(
        self, folder: str, whole: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert_it_ends_when_every_write_was_interrupted_once(folder, whole, tmp_path, monkeypatch)

    def test_are_recognised_when_finished_and_nothing_is_written_again(
        self, store: Store, folder: str, tmp_path: Path
    ) -> None:
        tiny = TinyRun(folder, tmp_path)
        tiny.finish()
        before = store.files(folder)
        for name in STAGES:
            outcome, calls = watched(tiny.stage(name))
            assert outcome.reused and calls.loaded == []
        assert store.files(folder) == before

    def test_leave_the_same_product(self, store: Store, tmp_path: Path) -> None:
        """Images from S3 into a run directory on S3, against both on a disk."""
        local = write_folder(tmp_path / "set", {"train": 4, "val": 2})
        runs = []
        for source, run in ((str(local), str(tmp_path / "run")), (store.upload(local), store.folder())):
            overrides = [
                "source.kind=imagefolder",
                f"source.path={source}",
                f"run_dir={run}",
                "method=kmeans",
                "ipc=2",
                "encode.chunk=5",
                "encode.batch=4",
                "evaluate.baselines=[]",
            ]
            job.run(
                prepare(configuration.load("quickstart", overrides), evaluate=False),
                "sample",
                lambda stage, todo: serial(stage, todo),
            )
            runs.append(run)
        there = {k.removeprefix("distilled/"): v for k, v in store.files(runs[1]).items() if k.startswith("distilled/")}
        assert there == product(Path(runs[0]))

    def test_are_named_to_the_verbs_by_their_uri(self, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
        asked = configuration.load("quickstart", ["ipc=7", f"run_dir={folder}"])
        seals.write(Location.of(folder), "config.yaml", asked.yaml().encode())
        for words in (["report", folder], ["distill", "--run", folder], ["evaluate", "seeds=2", "--run", folder]):
            assert cli.main([*words, "--print-config"]) == 0
            out = capsys.readouterr().out
            assert "\nipc: 7\n" in out and folder in out
        file = str(Location.of(folder) / "config.yaml")
        assert cli.main(["distill", "--config", file, "seed=3", "--print-config"]) == 0
        assert "\nipc: 7\n" in (out := capsys.readouterr().out) and "\nseed: 3\n" in out
        assert cli.main(["distill", "--config", file.replace("config.yaml", "none.yaml")]) == 2
        assert "none.yaml" in (said := capsys.readouterr().err) and "cannot be read" in said
        assert cli.main(["report", folder.replace("?", "-none?")]) == 2
        assert "no config.yaml there" in capsys.readouterr().err
        (Location.of(folder) / "config.yaml").write(b"ipc: 8")
        assert cli.main(["report", folder]) == 2
        assert "config.yaml is not what was written" in capsys.readouterr().err

    @pytest.mark.slow
    @pytest.mark.ray
    def test_are_drawn_again_by_report(
        self, store: Store, reference: Reference, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A copy of a finished run: nothing is computed, and its page is there again."""
        uri = store.upload(reference[0])
        page = f"{store.path(uri)}/report.html"
        store.fs.delete_file(page)
        assert cli.main(["report", uri]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines()[-1] == uri and "report.html" in err
        with store.fs.open_input_stream(page) as stream:
            assert b"Images and latents" in stream.read()

    @pytest.mark.slow
    @pytest.mark.ray
    @pytest.mark.timeout(900)
    def test_on_ray_end_with_a_report(self, store: Store, tmp_path: Path, reference: Reference) -> None:
        assert_a_run_on_ray_ends_with_a_report(store, tmp_path, reference)
