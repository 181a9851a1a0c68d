"""distilled/ belongs to the person: what is theirs stays, what is ours is whole, and two products never mix."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_product import assemble, contents, syntheses

from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed
from raydistill.exporters.base import open_product
from raydistill.exporters.marker import check_ours
from raydistill.exporters.write import export
from raydistill.identity import digest
from raydistill.sources.base import ClassInfo
from raydistill.sources.parquet import ParquetImages
from raydistill.sources.weights import read_weights
from raydistill.stages.syntheses import product
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed
from raydistill.store.tables import table_bytes
from raydistill.store.verification import _unsealed as unsealed

NAME = "train-00000-of-00001.parquet"
SHARD = f"data/{NAME}"
THREE = (ClassInfo("n01", "tench"), ClassInfo("n02", "English springer"), ClassInfo("n03", "church"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a product of two classes."""
    assemble(tmp_path / "run", syntheses(tmp_path / "two"))
    return tmp_path / "run"


@pytest.fixture
def other(tmp_path: Path) -> Sealed:
    return syntheses(tmp_path / "three", classes=3)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_notes_repositories_and_caches_stay_through_every_product(run: Path, other: Sealed, capsys: Any) -> None:
    theirs = {".git/HEAD": b"ref: x", ".cache/huggingface/download.lock": b"", "notes.txt": b"mine", "data/a.bin": b"a"}
    for name, data in theirs.items():
        (run / "distilled" / name).parent.mkdir(parents=True, exist_ok=True)
        (run / "distilled" / name).write_bytes(data)
    assert assemble(run, other, THREE) and not assemble(run, other, THREE)
    assert files(run / "distilled").items() >= theirs.items()
    assert "notes.txt" not in capsys.readouterr().err, "what harms nothing is not talked of"


@pytest.mark.parametrize("change", [{}, {"card": "# Another\n"}])
def test_an_edited_card_is_kept_beside_ours(run: Path, tmp_path: Path, change: dict[str, str], capsys: Any) -> None:
    (run / "distilled" / "README.md").write_text("# My own words\n")
    assert assemble(run, syntheses(tmp_path / "two"), **change)
    kept = f"README.md.mine-{digest(b'# My own words' + bytes([10]))[:8]}"
    assert (run / "distilled" / kept).read_text() == "# My own words\n"
    assert (run / "distilled" / "README.md").read_text() == change.get("card", "# A set\n")
    said = capsys.readouterr().err
    assert kept in said and said.count("\n") == 1
    assert not assemble(run, syntheses(tmp_path / "two"), **change), "and that is all"


def test_a_shard_that_somebody_changed_is_no_shard_of_ours_nor_lost(run: Path, tmp_path: Path) -> None:
    ours = (run / "distilled" / SHARD).read_bytes()
    theirs = table_bytes(pq.read_table(run / "distilled" / SHARD).slice(1))
    (run / "distilled" / SHARD).write_bytes(theirs)
    assert assemble(run, syntheses(tmp_path / "two"))
    assert (run / "distilled" / SHARD).read_bytes() == ours
    assert (run / "distilled" / f"{NAME}.mine-{digest(theirs)[:8]}").read_bytes() == theirs
    assert [p.name for p in (run / "distilled" / "data").iterdir()] == [NAME], "loaders see ours alone"


def test_shards_of_another_product_by_our_names_are_moved_aside(run: Path, tmp_path: Path, capsys: Any) -> None:
    stray = run / "distilled" / "data" / "train-00001-of-00002.parquet"
    stray.write_bytes(b"from elsewhere")
    assert assemble(run, syntheses(tmp_path / "two"))
    assert [p.name for p in (run / "distilled" / "data").iterdir()] == [NAME] and not stray.exists()
    assert f"{stray.name}.mine-{digest(b'from elsewhere')[:8]}" in contents(run)
    assert stray.name in capsys.readouterr().err


def test_parquet_of_theirs_is_told_of_each_time_and_never_exported(run: Path, tmp_path: Path, capsys: Any) -> None:
    theirs = run / "distilled" / "data" / "more.parquet"
    theirs.write_bytes((run / "distilled" / SHARD).read_bytes())
    for _ in range(2):
        assert not assemble(run, syntheses(tmp_path / "two"))
        assert "more.parquet is not of this product, but loaders of the folder read it" in capsys.readouterr().err
    assert theirs.exists() and open_product(Location.of(str(run))).shards == (SHARD,)


@pytest.mark.parametrize("name", ["README.md", SHARD])
def test_a_folder_in_the_place_of_our_file_is_named_and_stays(run: Path, tmp_path: Path, name: str) -> None:
    file = run / "distilled" / name
    ours = file.read_bytes()
    file.unlink()
    file.mkdir()
    (file / "mine.txt").write_text("keep me")
    with pytest.raises(StageFailed, match=rf"{name}: it is a folder .*; move it away, then run the same command again"):
        assemble(run, syntheses(tmp_path / "two"))
    file.rename(tmp_path / "moved")
    assert assemble(run, syntheses(tmp_path / "two")) and file.read_bytes() == ours
    assert (tmp_path / "moved" / "mine.txt").read_text() == "keep me"


def test_a_product_of_an_older_version_is_found_finished_and_gets_its_seals(run: Path, tmp_path: Path) -> None:
    before = contents(run)
    for seal in (run / "seals").iterdir():
        seal.unlink()
    assert not assemble(run, syntheses(tmp_path / "two")) and contents(run) == before
    assert set(seals.names(Location.of(str(run)))) == {f"distilled/{n}" for n in before}


def as_older_versions_laid_it(run: Path, seal: bool = True) -> None:
    """Shards beside the card."""
    location, data = Location.of(str(run)), (run / "distilled" / SHARD).read_bytes()
    of = seals.find(location, f"distilled/{SHARD}")
    assert of is not None
    seals.remove(location, f"distilled/{SHARD}")
    shutil.rmtree(run / "distilled" / "data")
    (run / "distilled" / NAME).write_bytes(data)
    if seal:
        seals.write(location, f"distilled/{NAME}", data, of.made_from)


@pytest.mark.parametrize("seal", [True, False])
def test_shards_beside_the_card_are_moved_and_not_kept_twice(
    run: Path, tmp_path: Path, seal: bool, capsys: Any
) -> None:
    before = contents(run)
    as_older_versions_laid_it(run, seal)
    assert assemble(run, syntheses(tmp_path / "two")) and not assemble(run, syntheses(tmp_path / "two"))
    assert contents(run) == before and "kept" not in capsys.readouterr().err
    assert set(seals.names(Location.of(str(run)))) == {f"distilled/{n}" for n in before}


def test_shards_beside_the_card_are_read_by_all(run: Path, tmp_path: Path) -> None:
    product = open_product(Location.of(str(run)))
    rows = list(product.items())
    as_older_versions_laid_it(run)
    older = open_product(Location.of(str(run)))
    assert older.shards == (NAME,) and list(older.items()) == rows and older.classes == product.classes
    assert not unsealed(Location.of(str(run))) and not check_ours(Location.of(str(run / "distilled")))
    export(str(run), "ddranking", str(tmp_path / "out"))
    assert (tmp_path / "out" / "images.pt").exists()
    config = SourceConfig(kind="parquet", path=str(run / "distilled"))
    listing = ParquetImages(config).list("train")
    assert len(listing) == 6 and read_weights(config, listing) is not None


@pytest.mark.parametrize("where", ["distilled", "distilled/data"])
def test_a_changed_shard_is_refused_by_whoever_judges_the_folder(run: Path, where: str) -> None:
    check_ours(Location.of(str(run / where)))
    (run / "distilled" / SHARD).write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=f"{SHARD} is not what was written"):
        check_ours(Location.of(str(run / where)))


def test_another_product_over_one_of_an_older_version_loses_nothing(
    run: Path, other: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run)
    for seal in (run / "seals").iterdir():
        seal.unlink()
    monkeypatch.setattr(product, "SHARD_ROWS", 4)
    assert assemble(run, other, THREE)
    assert set(before.values()) - {b"# A set\n"} <= set(contents(run).values())
    assert len(list((run / "distilled" / "data").iterdir())) == 3, "the shards of the new one alone"
