"""verify: every kind of damage is found in every place and called by its name, and nothing else is found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from artifacts import FINGERPRINT, at, work
from object_store import Store, endpoint
from spoil import SEALED, STAGE, commit, cut, data, files, findings, flip, folder, manifest, seal, small_run, told

from raydistill import cli
from raydistill.identity import canonical, digest
from raydistill.pipeline.verify import mend
from raydistill.stages.evaluation.checkpoint import Weights, described
from raydistill.store import inspection, seals
from raydistill.store.findings import Kind
from raydistill.store.location import Location
from raydistill.store.rundir import PARTS, PROBE, RunDir
from raydistill.store.verification import survey, verify

AGAIN_S = inspection.AGAIN_S


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "AGAIN_S", 0.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_run(tmp_path / "run")


def test_a_whole_run_has_no_finding_and_is_read_to_the_last_byte(run: Path) -> None:
    contents, sizes = survey(Location.of(str(run))), list[int]()
    assert list(verify(contents, seen=sizes.append)) == []
    read = [p for p in (run / STAGE / "data").iterdir()] + [run / name for name in SEALED]
    assert sorted(sizes) == sorted(p.stat().st_size for p in read) and sum(sizes) == contents.bytes


@pytest.mark.parametrize("spoil", [flip, cut, folder, Path.unlink], ids=["flip", "cut", "folder", "gone"])
@pytest.mark.parametrize("where", [commit, data, manifest, seal, *SEALED], ids=lambda w: getattr(w, "__name__", w))
def test_every_spoiled_file_is_named(
    run: Path, where: Callable[[Path], Path] | str, spoil: Callable[[Path], None]
) -> None:
    file = run / where if isinstance(where, str) else where(run)
    spoil(file)
    kind, name = "missing" if spoil is Path.unlink else "damaged", file.relative_to(run).as_posix()
    if spoil is Path.unlink and where in (manifest, seal):  # so ends an attempt that was interrupted just before
        kind, name = "unfinished", STAGE if where is manifest else "result.json"
    if where is seal and spoil is folder:
        assert told(run) == [("unfinished", "result.json"), ("not ours", name)]
    else:
        assert told(run) == [(kind, name)]


def test_an_artifact_that_is_gone_whole_is_missed(run: Path) -> None:
    shutil.rmtree(run / STAGE)
    assert told(run) == [("missing", STAGE)]


@pytest.mark.parametrize("bit", range(0, 8 * 30, 17))
def test_every_flipped_bit_of_data_is_seen(run: Path, bit: int) -> None:
    content = bytearray(data(run, "c").read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    data(run, "c").write_bytes(content)
    assert told(run) == [("damaged", data(run, "c").relative_to(run).as_posix())]


class TestForeign:
    def test_commits_of_another_artifact(self, run: Path) -> None:
        work(at(run, "fedcba9876543210"), ["z"])
        (copied,) = (run / "encode/fedcba9876543210/commits").iterdir()
        shutil.copy(copied, run / STAGE / "commits")
        assert told(run) == [("foreign", f"{STAGE}/commits/{copied.name}")]

    def test_a_manifest_of_another_artifact(self, run: Path) -> None:
        work(at(run, "fedcba9876543210"))
        shutil.copy(run / "encode/fedcba9876543210/manifest.json", manifest(run))
        assert told(run) == [("foreign", f"{STAGE}/manifest.json")]

    @pytest.mark.parametrize("file", ["../../../secret", "/etc/hostname", "data/../../secret-0123456789abcdef.bin"])
    def test_a_commit_that_points_elsewhere_is_not_followed(self, run: Path, file: str) -> None:
        body = json.loads(commit(run).read_text()) | {"file": file, "key": "x"}
        text = canonical(body)
        (run / STAGE / "commits" / f"x~{digest(text.encode())[:16]}.json").write_text(text)
        (finding,) = findings(run)
        assert finding.kind is Kind.FOREIGN and all(p.uri.startswith(f"{run}/{STAGE}/commits/x~") for p in finding.drop)

    @pytest.mark.parametrize("name", ["..%2F..%2Fsecret.json", "%2Fetc%2Fhostname.json", "a.b", "plain%2f.json"])
    def test_a_seal_that_points_elsewhere_is_not_followed(self, run: Path, name: str) -> None:
        (run / "seals" / name).write_text("{}")
        assert told(run) == [("not ours", f"seals/{name}")]

    def test_records_of_another_version(self, run: Path) -> None:
        text = canonical({"key": "x", "colour": "red"})
        name = f"x~{digest(text.encode())[:16]}.json"
        (run / STAGE / "commits" / name).write_text(text)
        assert told(run) == [("foreign", f"{STAGE}/commits/{name}")]


class TestLeftOver:
    def test_data_without_a_commit(self, run: Path) -> None:
        shutil.copy(data(run), run / STAGE / "data" / "z-0123456789abcdef.parquet")
        assert told(run) == [("left over", f"{STAGE}/data/z-0123456789abcdef.parquet")]

    def test_a_commit_that_lost(self, run: Path) -> None:
        record = at(run).commit("a", b"other bytes", rows=3, device="gpu")
        (finding,) = findings(run)
        assert finding.kind is Kind.LEFT_OVER and {p.uri for p in finding.drop} == {
            finding.location.uri,
            f"{run}/{STAGE}/{record.file}",
        }

    def test_torn_commits_and_probes(self, run: Path) -> None:
        (run / STAGE / "commits" / "z~0123456789abcdef.json").write_text('{"key": ')
        (run / f"{PROBE}abc").write_text("secret")
        assert told(run) == [
            ("left over", f"{STAGE}/commits/z~0123456789abcdef.json"),
            ("left over", f"{PROBE}abc"),
        ]

    def test_states_of_trainings(self, run: Path) -> None:
        work(at(run), ["a"])
        shutil.move(run / "encode", run / "evaluations")
        body = json.loads((run / "evaluations" / FINGERPRINT / "manifest.json").read_text())
        del body["digest"]
        body["stage"] = "evaluations"
        sealed = canonical(body | {"digest": digest(canonical(body).encode())})
        (run / "evaluations" / FINGERPRINT / "manifest.json").write_text(sealed)
        seals.write(Location.of(str(run)), PARTS, canonical([f"evaluations/{FINGERPRINT}"]).encode())
        states = run / "checkpoints" / "trainings"
        for name in (FINGERPRINT, "fedcba9876543210"):
            (states / name).mkdir(parents=True)
            (states / name / f"step-000000007~{digest(b'state')[:16]}.pt").write_bytes(b"state")
        torn = states / "fedcba9876543210" / f"step-000000009~{digest(b'later')[:16]}.pt"
        torn.write_bytes(b"lat")
        committed = f"checkpoints/trainings/{FINGERPRINT}/step-000000007~{digest(b'state')[:16]}.pt"
        assert told(run) == [("left over", committed), ("left over", torn.relative_to(run).as_posix())]


def test_what_is_not_ours_is_named_and_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = ["thesis.tex", f"{STAGE}/data/notes.txt", f"{STAGE}/commits/todo", f"{STAGE}/plot.png"]
    theirs += ["distilled/favourite.png", "encode/readme", "photos/1.jpg", "checkpoints/best.pt", "seals/mine"]
    for name in theirs:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("dear diary")
    before = files(run)
    assert {(k, n) for k, n in told(run)} == {("not ours", n if n != "photos/1.jpg" else "photos") for n in theirs}
    assert cli.main(["verify", str(run), "--repair"]) == 0
    assert files(run) == before


def test_a_run_leads_to_the_artifacts_that_it_shares(tmp_path: Path, run: Path) -> None:
    shared = tmp_path / "shared"
    RunDir(str(shared)).claim()
    shutil.move(run / "encode", shared / "encode")
    seals.write(Location.of(str(run)), "config.yaml", f"artifact_dir: {shared}\n".encode())
    assert findings(run) == []
    flip(data(shared))
    for root in (run, shared):
        assert [f.location.uri for f in findings(root)] == [str(data(shared))]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.mkdir(), "is empty"),
        (lambda p: None, "is not there"),
        (lambda p: p.write_text("x"), "cannot be listed|is a file"),
        (lambda p: (p / "photos").mkdir(parents=True), "is neither a run directory nor a folder of artifacts"),
        (lambda p: (p / "0123456789abcdef").mkdir(parents=True), "is neither a run directory"),
    ],
    ids=["empty", "none", "file", "photos", "fingerprint"],
)
def test_what_is_no_run_is_refused(
    make: Callable[[Path], None], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "thing")
    assert cli.main(["verify", str(tmp_path / "thing")]) == 2
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1
    assert re.search(says, err) and "give the directory that distill printed" in err


@pytest.mark.parametrize("argv", [[], ["RUN", "--readers", "0"], ["RUN", "--readers", "many"], ["RUN", "x=1"]])
def test_odd_arguments_are_refused(argv: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", *(str(run) if a == "RUN" else a for a in argv)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_line_says_all_of_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", str(run), "--readers", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{run}\n" and "10 files" in err and "nothing is wrong" in err
    flip(data(run))
    assert cli.main(["verify", str(run)]) == 1
    out, err = capsys.readouterr()
    first, last = out.splitlines()
    assert first.startswith(f"damaged    {data(run)}  (key a) is not what was committed") and last == str(run)
    assert "1 damaged" in err


@pytest.mark.parametrize("spoil", [flip, cut, Path.unlink], ids=["flip", "cut", "gone"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_kept_weights_are_read_and_trained_again_if_they_are_damaged(
    name: str, spoil: Callable[[Path], None], run: Path
) -> None:
    weights = Weights(Location.of(f"{run}/checkpoints"), "students/one", "0123456789abcdef")
    about = described("convnet", 8, ["a", "b"], 32, weights.training)
    weights.write(torch.nn.Linear(3, 2).state_dict(), about)
    assert findings(run) == [] and weights.there() and weights.known()
    weights_file = run / "checkpoints/students/one" / name
    spoil(weights_file)
    kind = "missing" if spoil is Path.unlink else "damaged"
    assert told(run) == [(kind, weights_file.relative_to(run).as_posix())] and not weights.there()
    weights.write(torch.nn.Linear(3, 2).state_dict(), about)
    assert findings(run) == [] and weights.there()


def test_the_help_tells_what_every_finding_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["verify", "--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {kind} " in text for kind in Kind)
    assert "--repair" in text and "--readers" in text and "a job works it is" in text


def test_looking_starts_neither_ray_nor_torch(run: Path) -> None:
    look = f"import sys; from raydistill import cli; cli.main(['verify', {str(run)!r}])"
    done = subprocess.run(
        [sys.executable, "-c", f"{look}; sys.exit(len({{'ray', 'torch'}} & set(sys.modules)))"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.splitlines() == [str(run)], done.stderr


class TestOnAnObjectStore:
    @pytest.fixture(scope="class")
    def store(self) -> Iterator[Store]:
        with endpoint() as running:
            yield running

    def test_a_run_is_read_and_its_damage_named_and_mended(
        self, store: Store, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        uri = store.upload(run)
        assert findings(uri) == []
        location = Location.of(uri)
        record = at(uri).manifest().records[0]
        (at(uri).location / record.file).write(b"spoiled")
        (at(uri).location / "commits" / commit(run, "b").name).delete()
        (location / "result.json").write(b"[]")
        assert [(f.kind, f.location.name) for f in findings(uri)] == [
            (Kind.MISSING, commit(run, "b").name),
            (Kind.DAMAGED, Path(record.file).name),
            (Kind.DAMAGED, "result.json"),
        ]
        assert cli.main(["verify", uri]) == 1
        mend(findings(uri))
        work(at(uri))
        seals.write(location, "result.json", b"{}")
        assert findings(uri) == [] and store.files(uri) == files(run)

    def test_an_empty_place_is_refused(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["verify", store.folder()]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
