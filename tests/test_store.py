"""The store: commits are whole or absent, the first stands, and damage is named before anything is computed from it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from artifacts import FINGERPRINT, KEYS, at, content, work

from raydistill import strict_json
from raydistill.errors import CorruptArtifact, DeterminismFault, StageFailed
from raydistill.identity import digest
from raydistill.models.device import inexact
from raydistill.store import faults, schemas
from raydistill.store.artifact import Manifest, Record
from raydistill.store.faults import POINTS
from raydistill.store.findings import Kind
from raydistill.store.inspection import inspect
from raydistill.store.location import Location
from raydistill.store.tables import table_bytes


def files(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file with its inode, modification time and content."""
    return {
        str(p.relative_to(root)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


class Death(BaseException):
    """Stands for SIGKILL: nothing that handles exceptions handles it."""


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """die(point, key) stops the process the next time that it reaches the point."""

    def arm(point: str, key: str) -> None:
        def hook(stage: str, here: str, now: str) -> None:
            if (here, now) == (point, key):
                monkeypatch.setattr(faults, "hook", None)
                raise Death

        monkeypatch.setattr(faults, "hook", hook)

    return arm


class TestCommits:
    def test_what_is_committed_can_be_read_and_sealed(self, tmp_path: Path) -> None:
        artifact = at(tmp_path)
        manifest = work(artifact)
        assert [r.key for r in manifest.records] == list(KEYS)
        assert manifest.rows == 9 and manifest.summary == {"images": 9}
        assert [artifact.read(r) for r in manifest.records] == [content(k) for k in KEYS]
        assert artifact.manifest() == manifest and artifact.records() == {r.key: r for r in manifest.records}
        artifact.verify(manifest.records)

    def test_names_hold_content_hashes(self, tmp_path: Path) -> None:
        record = at(tmp_path).commit("a", b"x", rows=1, device="cpu", ext="bin")
        assert record.file == f"data/a-{record.sha256[:16]}.bin" and record.fingerprint == FINGERPRINT

    def test_nothing_is_there_before_the_first_commit(self, tmp_path: Path) -> None:
        assert at(tmp_path).records() == {} and at(tmp_path).manifest() is None and not list(tmp_path.iterdir())

    def test_the_manifest_knows_no_order_of_commits(self, tmp_path: Path, undisturbed: Manifest) -> None:
        artifact = at(tmp_path / "other")
        for key in random.Random(1).sample(KEYS, 3):
            artifact.commit(key, content(key), rows=3, device="cpu", meta={"n": 1})
        assert artifact.seal(KEYS[::-1], {"images": 9}) == undisturbed

    def test_sealing_too_early_names_what_is_missing(self, tmp_path: Path) -> None:
        artifact = at(tmp_path)
        artifact.commit("a", b"x", rows=1, device="cpu")
        with pytest.raises(StageFailed, match=r"2 of 3 keys have no commit \(first b\)"):
            artifact.seal(KEYS)
        assert artifact.manifest() is None

    def test_the_manifest_holds_the_asked_keys_only(self, tmp_path: Path) -> None:
        artifact = at(tmp_path)
        work(artifact, [*KEYS, "z"])
        assert [r.key for r in artifact.seal(KEYS).records] == list(KEYS)

    def test_another_content_has_another_digest(self, tmp_path: Path, undisturbed: Manifest) -> None:
        artifact = at(tmp_path / "other")
        artifact.commit("b", b"something else", rows=3, device="cpu", meta={"n": 1})
        assert work(artifact).digest != undisturbed.digest

    def test_tables_keep_their_row_groups(self, tmp_path: Path) -> None:
        artifact = at(tmp_path)
        table = pa.table({"x": list(range(10))})
        record = artifact.commit_table("a", table, device="cpu", row_groups=[3, 0, 7])
        assert record.rows == 10 and artifact.read_table(record).equals(table)
        assert artifact.read_table(record, 2)["x"].to_pylist() == list(range(3, 10))
        assert artifact.read_table(record, 1).num_rows == 0
        assert artifact.read_row_group(record, 0)["x"].to_pylist() == [0, 1, 2]
        assert table_bytes(table, [3, 7]) == table_bytes(table, [3, 7]) != table_bytes(table, [10])

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_latents_come_back_as_they_were(self, tmp_path: Path, dtype: type) -> None:
        values = np.random.default_rng(0).standard_normal((5, 4, 2, 2)).astype(dtype)
        table = pa.table({"latent": schemas.tensor_array(values)})
        record = at(tmp_path).commit_table("a", table, device="cpu", row_groups=[2, 3])
        assert np.array_equal(schemas.tensor_numpy(at(tmp_path).read_table(record)["latent"]), values)
        assert np.array_equal(schemas.tensor_numpy(at(tmp_path).read_table(record, 1)["latent"]), values[2:])


MATRIX = [(p, k) for p in POINTS for k in (("manifest",) if "manifest" in p else KEYS)]


class TestKills:
    @pytest.mark.parametrize(("point", "key"), MATRIX)
    def test_repeating_after_a_kill_equals_an_undisturbed_run(
        self, tmp_path: Path, undisturbed: Manifest, die: Callable[[str, str], None], point: str, key: str
    ) -> None:
        artifact = at(tmp_path / "killed")
        die(point, key)
        with pytest.raises(Death):
            work(artifact)
        named = tuple(r.file for r in artifact.records().values())
        before = {n: v for n, v in files(tmp_path / "killed").items() if "/commits/" in n or n.endswith(named)}
        assert work(artifact) == undisturbed
        after = files(tmp_path / "killed")
        assert {n: after[n] for n in before} == before
        assert {n: v[2] for n, v in after.items()} == {n: v[2] for n, v in files(tmp_path / "undisturbed").items()}

    @pytest.mark.parametrize(("point", "key"), MATRIX)
    def test_a_killed_second_attempt_harms_nothing(
        self, tmp_path: Path, undisturbed: Manifest, die: Callable[[str, str], None], point: str, key: str
    ) -> None:
        artifact, before = at(tmp_path / "undisturbed"), files(tmp_path / "undisturbed")
        die(point, key)
        try:
            for k in KEYS:
                artifact.commit(k, content(k), rows=3, device="cpu", meta={"n": 1})
            artifact.seal(KEYS, {"images": 9})
        except Death:
            pass
        after = files(tmp_path / "undisturbed")
        assert {n: v[2] for n, v in after.items()} == {n: v[2] for n, v in before.items()}
        assert all(after[n] == before[n] for n in before if "manifest" not in n)
        assert artifact.manifest() == undisturbed

    @pytest.mark.parametrize("point", POINTS)
    def test_a_real_kill_at_a_point_named_by_the_environment(
        self, tmp_path: Path, undisturbed: Manifest, point: str
    ) -> None:
        (tmp_path / "token").touch()
        program = (
            "import sys; sys.path[:0] = sys.argv[2:]; from artifacts import at, work; "
            "print(work(at(sys.argv[1])).digest)"
        )
        here = Path(__file__).resolve().parent
        command = [sys.executable, "-c", program, str(tmp_path / "killed"), str(here), str(here.parent)]
        environment = {**os.environ, "RAYDISTILL_FAULT": f"encode:{point}:*:{tmp_path / 'token'}"}
        assert subprocess.run(command, env=environment, check=False).returncode == -9
        assert work(at(tmp_path / "killed")) == undisturbed

    def test_a_commit_written_again_stays_whole_at_every_moment(self, tmp_path: Path) -> None:
        location, data = Location.of(str(tmp_path / "x")), os.urandom(500_000)
        location.write(data)
        writer = threading.Thread(target=lambda: [location.write(data) for _ in range(30)])
        writer.start()
        while writer.is_alive():
            assert location.read() == data

    def test_a_shorter_object_replaces_a_longer_one(self, tmp_path: Path) -> None:
        location = Location.of(str(tmp_path / "x"))
        location.write(b"longer")
        location.write(b"short")
        assert location.read() == b"short"

    @pytest.mark.parametrize("keep", [0, 1, 50, -1])
    def test_a_torn_commit_record_is_no_commit(self, tmp_path: Path, undisturbed: Manifest, keep: int) -> None:
        root = tmp_path / "undisturbed" / "encode" / FINGERPRINT
        (root / "manifest.json").unlink()
        torn = next((root / "commits").glob("b~*"))
        torn.write_bytes(torn.read_bytes()[:keep])
        assert sorted(at(tmp_path / "undisturbed").records()) == ["a", "c"]
        assert work(at(tmp_path / "undisturbed")) == undisturbed

    @pytest.mark.parametrize(
        "damage",
        [
            lambda b: b[:-1],
            lambda b: b[:50],
            lambda b: b"",
            lambda b: b"[1]",
            lambda b: b"3",
            lambda b: b"\xff",
            lambda b: b + b"x",
            lambda b: b.replace(b'"a"', b'"x"'),
        ],
    )
    def test_a_torn_manifest_is_sealed_again(
        self, tmp_path: Path, undisturbed: Manifest, damage: Callable[[bytes], bytes]
    ) -> None:
        file = tmp_path / "undisturbed" / "encode" / FINGERPRINT / "manifest.json"
        whole = file.read_bytes()
        file.write_bytes(damage(whole))
        assert at(tmp_path / "undisturbed").manifest() is None
        assert work(at(tmp_path / "undisturbed")) == undisturbed and file.read_bytes() == whole

    def test_a_manifest_larger_than_json_of_others_may_be_is_found(self, tmp_path: Path) -> None:
        """As of a stage of 300,000 keys: were it not, the stage would never be finished."""
        artifact, filler = at(tmp_path), "x" * (strict_json.MAX_BYTES // 2)
        made = [artifact.commit(key, b"", rows=3, device="cpu", meta={"filler": filler}) for key in KEYS[:2]]
        assert artifact.seal(KEYS[:2], known=made) == artifact.manifest()

    def test_stray_files_among_the_commits_are_ignored(self, tmp_path: Path, undisturbed: Manifest) -> None:
        folder = tmp_path / "undisturbed" / "encode" / FINGERPRINT / "commits"
        for name in (".nfs0001", "notes.txt", "x.json", "a~0000.json"):
            (folder / name).write_text("?")
        assert sorted(at(tmp_path / "undisturbed").records()) == list(KEYS)


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "why"),
        [
            (lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]), "does not match its commit"),
            (lambda p: p.write_bytes(p.read_bytes()[:-1]), "does not match its commit"),
            (lambda p: p.write_bytes(b""), r"does not match its commit \(0 bytes, expected 180\)"),
            (lambda p: p.write_bytes(p.read_bytes() + b"x"), "does not match its commit"),
            (lambda p: p.unlink(), "is missing"),
        ],
        ids=["flipped", "truncated", "emptied", "appended", "deleted"],
    )
    def test_a_damaged_file_is_named_with_key_and_remedy(
        self, tmp_path: Path, undisturbed: Manifest, damage: Callable[[Path], None], why: str
    ) -> None:
        artifact, record = at(tmp_path / "undisturbed"), undisturbed.records[1]
        damage(tmp_path / "undisturbed" / "encode" / FINGERPRINT / record.file)
        for attempt in (
            lambda: artifact.read(record),
            lambda: artifact.read_table(record),
            lambda: artifact.verify(undisturbed.records),
        ):
            with pytest.raises(CorruptArtifact, match=why) as caught:
                attempt()
            text = str(caught.value)
            assert record.file in text and "key b" in text and "delete" in text and "\n" not in text

    def test_a_deleted_file_is_restored_by_committing_again(self, tmp_path: Path, undisturbed: Manifest) -> None:
        artifact, record = at(tmp_path / "undisturbed"), undisturbed.records[0]
        (tmp_path / "undisturbed" / "encode" / FINGERPRINT / record.file).unlink()
        assert artifact.commit("a", content("a"), rows=3, device="cpu", meta={"n": 1}) == record
        artifact.verify(undisturbed.records)

    def test_a_manifest_from_elsewhere_is_refused(self, tmp_path: Path, undisturbed: Manifest) -> None:
        root = tmp_path / "undisturbed" / "encode"
        shutil.copytree(root / FINGERPRINT, root / "fedcba9876543210")
        with pytest.raises(CorruptArtifact, match=f"belongs to encode/{FINGERPRINT}; it was copied here"):
            at(tmp_path / "undisturbed", "fedcba9876543210").manifest()

    def test_a_commit_from_elsewhere_is_refused(self, tmp_path: Path, undisturbed: Manifest) -> None:
        root = tmp_path / "undisturbed" / "encode"
        shutil.copytree(root / FINGERPRINT, root / "fedcba9876543210")
        with pytest.raises(CorruptArtifact, match=f"commit of key . of artifact {FINGERPRINT}; it was copied here"):
            at(tmp_path / "undisturbed", "fedcba9876543210").records()

    def test_a_commit_of_another_version_is_refused(self, tmp_path: Path) -> None:
        text = b'{"key":"a","colour":"blue"}'
        (Location.of(str(tmp_path)) / "encode" / FINGERPRINT / "commits" / f"a~{digest(text)[:16]}.json").write(text)
        with pytest.raises(CorruptArtifact, match="not a commit of this version"):
            at(tmp_path).records()


class TestTwoAttempts:
    def commits(self, root: Path) -> list[Path]:
        return sorted((root / "encode" / FINGERPRINT / "commits").iterdir())

    def age(self, root: Path, record: Record, second: int) -> None:
        """Makes the record as old as if it had been written at this second."""
        file = next(p for p in self.commits(root) if record.sha256 in p.read_text())
        os.utime(file, (second, second))

    def test_with_the_same_bytes_are_one_commit(self, tmp_path: Path) -> None:
        first = at(tmp_path).commit("a", b"x", rows=1, device="cpu")
        before = files(tmp_path)
        assert at(tmp_path).commit("a", b"x", rows=1, device="cpu") == first and files(tmp_path) == before

    def test_at_the_same_time_are_one_commit(self, tmp_path: Path, undisturbed: Manifest) -> None:
        manifests: list[Manifest] = []
        threads = [threading.Thread(target=lambda: manifests.append(work(at(tmp_path / "raced")))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert manifests == [undisturbed] * 8 and len(self.commits(tmp_path / "raced")) == 3

    def test_that_differ_on_one_kind_of_device_are_a_fault(self, tmp_path: Path) -> None:
        for data in (b"x", b"y"):
            record = at(tmp_path).commit("a", data, rows=1, device="cpu")
        with pytest.raises(DeterminismFault, match="key a was computed twice on 'cpu'") as caught:
            at(tmp_path).seal(["a"])
        assert record.file in str(caught.value) and "delete" in str(caught.value)

    @pytest.mark.parametrize("first", ["cpu", "cuda"])
    def test_that_differ_between_devices_leave_the_oldest(self, tmp_path: Path, first: str) -> None:
        records = {d: at(tmp_path).commit("a", d.encode(), rows=1, device=d) for d in ("cpu", "cuda")}
        for device, record in records.items():
            self.age(tmp_path, record, 1000 if device == first else 2000)
        assert at(tmp_path).records()["a"].device == first
        at(tmp_path).commit("a", first.encode(), rows=1, device=first)
        assert at(tmp_path).seal(["a"]).records[0].device == first

    def test_of_equal_age_are_settled_by_name(self, tmp_path: Path) -> None:
        for device in ("cpu", "cuda"):
            self.age(tmp_path, at(tmp_path).commit("a", device.encode(), rows=1, device=device), 1000)
        expected = json.loads(self.commits(tmp_path)[0].read_text())["device"]
        assert at(tmp_path).records()["a"].device == expected

    def test_that_promise_no_bytes_leave_the_oldest(self, tmp_path: Path) -> None:
        """A training on a GPU sums gradients in any order: two runs that train the same at once are no fault."""
        for kind in ("cpu-AVX2/float32", "NVIDIA H100"):
            assert bool(inexact(kind)) == (kind == "NVIDIA H100")
        for second, data in enumerate((b"x", b"y")):
            record = at(tmp_path).commit("a", data, rows=1, device="NVIDIA H100", meta=inexact("NVIDIA H100"))
            self.age(tmp_path, record, 1000 + second)
        assert at(tmp_path).seal(["a"]).records[0].sha256 == digest(b"x")
        with ThreadPoolExecutor(1) as pool:
            assert {f.kind for f in inspect(at(tmp_path), pool, lambda size: None)} == {Kind.LEFT_OVER}

    def test_a_fault_behind_another_device_is_seen(self, tmp_path: Path) -> None:
        for second, (device, data) in enumerate([("cuda", b"x"), ("cpu", b"y"), ("cpu", b"z")]):
            self.age(tmp_path, at(tmp_path).commit("a", data, rows=1, device=device), 1000 + second)
        with pytest.raises(DeterminismFault):
            at(tmp_path).records()
