"""The scale rehearsal in a tiny form: every part without Ray, in this process. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import scale
import scale_parts
from paged_store import FINGERPRINT, PAGE, Filled, endpoint

from raydistill.store.artifact import Artifact
from raydistill.store.location import Location


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(name: str, **body: Any) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads(json.dumps(scale_parts.PARTS[name](**body)))
        return figures

    monkeypatch.setattr(scale, "part", part)
    monkeypatch.setattr(scale_parts, "COMMITTED", 20)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        scale.main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "python benchmarks/scale.py --work DIR" in said and "--child" not in said


def test_it_measures_what_it_was_asked_for(here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scale"
    small = ["--images", "600", "--slots", "200", "--classes", "10", "--keys", "30", "--batches", "8", "--no-ray"]
    assert scale.main(["--work", str(tmp_path / "work"), "--batch-s", "0.01", *small, "--out", str(out)]) == 0
    measured = {cell["name"]: cell for cell in (json.loads(file.read_text()) for file in out.glob("*.json"))}
    assert [measured[f"keys, {store}"]["keys"] for store in ("local folder", "object store")] == [30, 30]
    assert (measured["plan"]["slots"], measured["plan"]["batches"], measured["plan"]["images"]) == (200, 10, 600)
    assert measured["plan, real latents"]["latent"] == [4, 32, 32]
    assert measured["sample"]["batches"] == 8 and measured["sample"]["a batch without Ray, s"] >= 0.01
    assert "| plan | plan, s |" in (out / "scale.md").read_text() == capsys.readouterr().out.removesuffix("\n")
    assert not (tmp_path / "work").exists()


def test_the_stand_in_for_s3_pages_a_folder_as_s3_does() -> None:
    """More than two pages, with keys before, behind and below it."""
    filled, keys = Filled(), [f"k-{i:05d}" for i in range(2 * PAGE + 5)]
    known = [filled.commit(key, b"data") for key in keys]
    with endpoint(filled.objects) as uri:
        artifact = Artifact(Location.of(uri), "sample", FINGERPRINT)
        known.append(artifact.commit("last", b"data", rows=1, device="cpu/float32"))
        assert len((artifact.location / "commits").list()) == len(keys) + 1
        assert artifact.location.list() == ["commits", "data"] and Location.of(uri).list() == ["sample"]
        manifest = artifact.seal([*keys, "last"], known=known)
        assert artifact.manifest() == manifest and artifact.read(manifest.records[0]) == b"data"
        artifact.verify(manifest.records[-3:])
        (artifact.location / "manifest.json").delete()
        assert artifact.manifest() is None
