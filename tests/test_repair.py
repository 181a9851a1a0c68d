"""verify --repair: the run is what it was, byte for byte, and nothing that was whole is computed again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from artifacts import KEYS, at, work
from object_store import endpoint
from running import ROOT, environment, product
from samples import write_folder
from spoil import STAGE, commit, cut, data, files, findings, flip, manifest, small_run, told
from tiny_run import STAGES, TinyRun

from raydistill import cli
from raydistill import config as configuration
from raydistill.pipeline import job, steps
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.verify import mend
from raydistill.results import news
from raydistill.stages.runner import serial
from raydistill.store import inspection, seals
from raydistill.store.artifact import Manifest
from raydistill.store.claims import hold
from raydistill.store.findings import Kind
from raydistill.store.location import Location
from raydistill.store.rundir import PROBE


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "AGAIN_S", 0.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_run(tmp_path / "run")


class TestMending:
    @pytest.fixture(scope="class")
    def finished(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Manifest]]:
        root = tmp_path_factory.mktemp("finished") / "run"
        tiny = TinyRun(root)
        tiny.run.claim()
        return root, tiny.finish()

    @pytest.mark.parametrize("spoil", [flip, Path.unlink], ids=["flip", "gone"])
    @pytest.mark.parametrize("name", STAGES)
    def test_a_stage_is_what_it_was_and_only_the_damaged_key_is_computed(
        self, name: str, spoil: Callable[[Path], None], finished: tuple[Path, dict[str, Manifest]], tmp_path: Path
    ) -> None:
        shutil.copytree(finished[0], tmp_path / "run")
        tiny = TinyRun(tmp_path / "run")
        record = finished[1][name].records[-1]
        spoil(Path((tiny.stage(name).artifact.location / record.file).uri))
        assert [f.kind for f in findings(tmp_path / "run")] == [Kind.MISSING if spoil is Path.unlink else Kind.DAMAGED]
        mend(findings(tmp_path / "run"))
        kept = tiny.stage(name).artifact.records()
        assert [r for r in finished[1][name].records if kept.get(r.key) != r] == [record]
        assert tiny.finish() == finished[1]
        assert findings(tmp_path / "run") == [] and files(tmp_path / "run") == files(finished[0])

    @pytest.mark.parametrize("where", [commit, manifest])
    @pytest.mark.parametrize("spoil", [flip, cut, Path.unlink], ids=["flip", "cut", "gone"])
    def test_commits_and_manifests_need_no_computation(
        self, where: Callable[[Path], Path], spoil: Callable[[Path], None], run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = files(run)
        spoil(where(run))
        mend(findings(run))
        monkeypatch.setattr(type(at(run)), "commit", lambda *_, **__: pytest.fail("a key was computed"))
        work(at(run))
        assert files(run) == before

    def test_what_is_left_over_goes(self, run: Path) -> None:
        before = files(run)
        shutil.copy(data(run), run / STAGE / "data" / "z-0123456789abcdef.parquet")
        at(run).commit("a", b"other bytes", rows=3, device="gpu")
        (run / STAGE / "commits" / "z~0123456789abcdef.json").write_text('{"key": ')
        (run / f"{PROBE}abc").write_text("secret")
        assert cli.main(["verify", str(run), "--repair"]) == 0
        assert files(run) == before

    @pytest.mark.parametrize("key", KEYS)
    def test_all_of_a_key_can_be_gone(self, key: str, run: Path) -> None:
        before = files(run)
        commit(run, key).unlink()
        data(run, key).unlink()
        assert [f.kind for f in findings(run)] == [Kind.MISSING, Kind.MISSING]
        mend(findings(run))
        work(at(run))
        assert files(run) == before


def made_once(root: Path) -> dict[str, bytes]:
    """The files of a run but what it has cost, which grows by what is computed again."""
    return {name: text for name, text in files(root).items() if "costs.json" not in name}


class TestTheRunsCommand:
    """Runs up to distilled/, whose stages work in this process."""

    @pytest.fixture(autouse=True)
    def without_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steps, "on_ray", lambda p, nodes: serial)

    @pytest.fixture
    def run_dir(self, tmp_path: Path) -> Path:
        write_folder(tmp_path / "set", {"train": 4, "val": 2})
        self.make(tmp_path)
        return tmp_path / "run"

    def make(self, folder: Path, *overrides: str) -> None:
        small = ["method=kmeans", "ipc=2", "encode.chunk=5", "encode.batch=4", "evaluate.baselines=[]"]
        source = ["source.kind=imagefolder", f"source.path={folder / 'set'}", f"run_dir={folder / 'run'}"]
        p = prepare(configuration.load("quickstart", [*source, *small, *overrides]), evaluate=False)
        job.run(p, "sample", serial)

    @pytest.mark.parametrize("spoil", [flip, cut, Path.unlink], ids=["flip", "cut", "gone"])
    @pytest.mark.parametrize(
        "where",
        [
            *(f"latents/*/{part}" for part in ("data/*", "commits/*", "manifest.json")),
            *(f"{stage}/*/data/*" for stage in ("classes", "prototypes", "plan", "syntheses")),
            *("config.yaml", "logs/costs.json", "distilled/data/train*", "distilled/README.md", "raydistill.json"),
            *("seals/config*", "seals/distilled*", "seals/logs*"),
        ],
    )
    def test_gives_every_file_back(self, where: str, spoil: Callable[[Path], None], run_dir: Path) -> None:
        before = made_once(run_dir)
        spoil(sorted(run_dir.glob(where))[0])
        silent = spoil is Path.unlink and (where.startswith("seals") or where.endswith("manifest.json"))
        assert cli.main(["verify", str(run_dir)]) == (0 if silent else 1)
        assert cli.main(["verify", str(run_dir), "--repair"]) == 0
        if silent:  # as an attempt that was interrupted: the run's own command goes on there
            self.make(run_dir.parent)
        after = made_once(run_dir)
        assert {n: after[n] for n in before} == before
        assert all(".mine-" in n or n.startswith("logs/") for n in set(after) - set(before))
        assert {kind for kind, _ in told(run_dir)} <= {"not ours"}

    @pytest.mark.parametrize("stage", ["latents", "classes", "prototypes", "plan", "syntheses"])
    def test_gives_a_whole_stage_back(self, stage: str, run_dir: Path) -> None:
        before = made_once(run_dir)
        shutil.rmtree(run_dir / stage)
        assert [kind for kind, _ in told(run_dir)] == ["missing"]
        assert cli.main(["verify", str(run_dir), "--repair"]) == 0
        assert made_once(run_dir) == before and told(run_dir) == []

    def test_takes_away_what_was_copied_from_another_stage(self, run_dir: Path) -> None:
        before = made_once(run_dir)
        (latents,), (classes,) = run_dir.glob("latents/*"), run_dir.glob("classes/*")
        shutil.copy(sorted((latents / "commits").iterdir())[0], classes / "commits")
        shutil.copy(latents / "manifest.json", classes / "manifest.json")
        assert [kind for kind, _ in told(run_dir)] == ["foreign", "foreign"]
        assert cli.main(["verify", str(run_dir), "--repair"]) == 0
        assert made_once(run_dir) == before

    def test_everything_at_once(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = made_once(run_dir)
        for file in [*sorted(run_dir.glob("*/*/data/*")), run_dir / "config.yaml", run_dir / "logs/costs.json"]:
            flip(file)
        for file in run_dir.glob("*/*/commits/*"):
            file.unlink()
        shutil.rmtree(run_dir / "distilled")
        assert cli.main(["verify", str(run_dir), "--repair"]) == 0
        assert made_once(run_dir) == before
        out, err = capsys.readouterr()
        assert out.splitlines()[-1] == str(run_dir) and "nothing is wrong" in err.splitlines()[-1]

    def test_waits_for_a_job_that_is_at_work(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shard = next((run_dir / "distilled").glob("data/*.parquet"))
        shard.write_bytes(b"spoiled")
        before = made_once(run_dir)
        with hold(Location.of(str(run_dir)), "run_dir", "another"):
            assert cli.main(["verify", str(run_dir), "--repair"]) == 2
        assert "is in use by another configuration (host" in capsys.readouterr().err and made_once(run_dir) == before
        assert cli.main(["verify", str(run_dir), "--repair"]) == 0

    def test_is_not_given_when_nothing_has_to_be_computed(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = files(run_dir)
        sorted(run_dir.glob("latents/*/commits/*"))[0].unlink()
        flip(run_dir / "config.yaml")
        (run_dir / f"{PROBE}abc").write_text("secret")
        monkeypatch.setattr(job, "run", lambda *_, **__: pytest.fail("work began"))
        assert cli.main(["verify", str(run_dir), "--repair"]) == 0
        assert files(run_dir) == before

    @pytest.mark.parametrize("other", ["gone", "changed"])
    def test_is_not_given_and_nothing_is_touched_when_the_images_are_others(
        self, other: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flip(sorted(run_dir.glob("latents/*/data/*"))[0])
        flip(sorted(run_dir.glob("classes/*/commits/*"))[0])
        before = files(run_dir)
        if other == "gone":
            shutil.rmtree(run_dir.parent / "set")
        else:
            next((run_dir.parent / "set").rglob("*.png")).unlink()
        assert cli.main(["verify", str(run_dir), "--repair"]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: verify: what is lost cannot be made again: ")
        assert error.endswith("; nothing was removed")
        assert files(run_dir) == before

    def test_does_not_reach_what_an_earlier_configuration_made(
        self, run_dir: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (old,) = run_dir.glob("syntheses/*")
        before = files(old)
        self.make(run_dir.parent, "ipc=1")
        flip(next((old / "data").iterdir()))
        assert cli.main(["verify", str(run_dir), "--repair"]) == 1
        assert f"{old} lacks what was damaged; it is of an earlier configuration" in capsys.readouterr().out
        assert cli.main(["verify", str(run_dir)]) == 0
        self.make(run_dir.parent)
        assert files(old) == before, "the remedy in the line works"

    def test_of_a_lost_configuration_is_not_guessed(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        # no copy: too large
        seals.write(Location.of(str(run_dir)), "config.yaml", (run_dir / "config.yaml").read_bytes())
        flip(run_dir / "config.yaml")
        before = files(run_dir)
        assert cli.main(["verify", str(run_dir), "--repair"]) == 1
        assert "give the command that made the run once more" in capsys.readouterr().err.splitlines()[-1]
        assert files(run_dir) == before
        self.make(run_dir.parent)
        assert cli.main(["verify", str(run_dir)]) == 0

    def test_is_given_on_an_object_store_too(self, run_dir: Path) -> None:
        with endpoint() as store:
            uri = store.folder()
            self.make(run_dir.parent, f"run_dir={uri}")
            before = store.files(uri)
            for name in before:
                if (name.startswith(("latents/", "syntheses/")) and "/data/" in name) or name == "config.yaml":
                    (Location.of(uri) / name).write(b"spoiled")
            assert cli.main(["verify", uri, "--repair", "--readers", "2"]) == 0
            after = store.files(uri)
            changed = {n for n in before if before[n] != after.get(n)} - {news.NAME, news.PAGE}
            assert changed <= {n for n in before if "costs.json" in n}

    def test_in_an_artifact_folder_is_a_runs(self, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shared = run_dir.parent / "shared"
        self.make(run_dir.parent, f"artifact_dir={shared}")
        before = files(shared)
        flip(sorted(shared.glob("latents/*/data/*"))[0])
        assert cli.main(["verify", str(shared), "--repair"]) == 1
        assert "it is of a run, whose command computes it again" in capsys.readouterr().out
        self.make(run_dir.parent, f"artifact_dir={shared}")
        assert files(shared) == before
        flip(sorted(shared.glob("syntheses/*/data/*"))[0])
        assert cli.main(["verify", str(run_dir), "--repair"]) == 0
        assert files(shared) == before


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_real_run_is_what_it_was(reference: tuple[Path, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference[0], run)
    assert findings(run) == []
    images, before = product(run), files(run)
    for where in ("syntheses/*/data/*", "evaluations/*/data/*", "result.json", "report.html"):
        flip(sorted(run.glob(where))[0])
    assert len(findings(run)) == 4
    door = [sys.executable, str(ROOT / "jobs" / "verify.py"), str(run), "--repair"]
    done = subprocess.run(door, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str(run)
    assert product(run) == images and findings(run) == []
    after = files(run)
    assert {n for n in before if before[n] != after[n]} <= {"config.yaml", "result.json", "report.html"} | {
        n for n in before if n.startswith(("logs/", "seals/"))
    }
