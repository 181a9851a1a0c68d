"""Full and failing disks, and object stores: the store says what happened, and holds the same there as on a disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from artifacts import at, work
from pyarrow import fs as pafs
from spoil import fill

from raydistill.errors import CorruptArtifact, StageFailed
from raydistill.store import location
from raydistill.store.artifact import Manifest
from raydistill.store.location import Location


class TestDisks:
    @pytest.mark.parametrize(
        ("code", "remedy"),
        [
            (errno.ENOSPC, "free some space"),
            (errno.EDQUOT, "free some space"),
            (errno.EROFS, "make it writable"),
            (errno.EACCES, "make it writable"),
            (errno.EIO, "check the path"),
        ],
    )
    def test_an_error_ends_the_stage_with_one_line_and_a_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
    ) -> None:
        def fail(path: str, data: bytes) -> None:
            raise OSError(code, os.strerror(code), path)

        monkeypatch.setattr(location, "_write_file", fail)
        with pytest.raises(StageFailed) as caught:
            work(at(tmp_path))
        text = str(caught.value)
        assert os.strerror(code) in text and remedy in text and "\n" not in text
        assert "run the same command again" in text

    def test_a_full_disk_is_said_and_freed_space_is_used(self, small_disk: Path, undisturbed: Manifest) -> None:
        filler = fill(small_disk)
        with pytest.raises(StageFailed, match="No space left on device; free some space or choose another run_dir"):
            work(at(small_disk))
        filler.unlink()
        assert work(at(small_disk)) == undisturbed


class TestObjectStores:
    @pytest.fixture
    def bucket(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """Objects in memory, with neither folders nor modification times, behind the URI that is returned."""
        fsspec = pytest.importorskip("fsspec")
        objects = pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.get_filesystem_class("memory")(skip_instance_cache=True)))
        objects.handler.fs.store, objects.handler.fs.pseudo_dirs = {}, [""]
        monkeypatch.setattr(Location, "filesystem", lambda self: (objects, self.uri.removeprefix("s3://")))
        return "s3://bucket/run"

    def test_hold_an_artifact_as_disks_do(self, bucket: str, tmp_path: Path, undisturbed: Manifest) -> None:
        assert at(bucket).records() == {} and at(bucket).manifest() is None
        assert work(at(bucket)) == work(at(bucket)) == undisturbed
        at(bucket).verify(undisturbed.records)
        (at(bucket).location / undisturbed.records[0].file).delete()
        with pytest.raises(CorruptArtifact, match="is missing"):
            at(bucket).verify(undisturbed.records)

    def test_a_file_uri_is_the_local_folder(self, tmp_path: Path, undisturbed: Manifest) -> None:
        assert work(at(f"file://{tmp_path}/undisturbed")) == undisturbed
        assert work(at(f"file://{tmp_path}/other")) == undisturbed == work(at(tmp_path / "other"))

    def test_options_of_a_uri_stay_behind_the_path(self) -> None:
        file = Location.of("s3://bucket/run?endpoint_override=localhost:9000&scheme=http") / "data" / "x"
        assert file.uri == "s3://bucket/run/data/x?endpoint_override=localhost:9000&scheme=http"
        assert (Location.of("/what?/now") / "x").uri == "/what?/now/x"
