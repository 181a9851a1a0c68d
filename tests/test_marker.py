"""An export knows its own bytes: one bit, and it is neither found finished nor judged as ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_product import PLAIN, assemble, syntheses

from raydistill.errors import BadInput
from raydistill.exporters.marker import MARKER, check_ours
from raydistill.exporters.write import export
from raydistill.report.card import card
from raydistill.store.location import Location


@pytest.fixture
def run(tmp_path: Path) -> Path:
    text = card("Two classes", "mgd3", 3, 0, PLAIN, 12, "digits", "dit", {}, {"images": None})
    assemble(tmp_path / "run", syntheses(tmp_path / "made"), card=text)
    return tmp_path / "run"


@pytest.fixture
def out(run: Path, tmp_path: Path) -> Path:
    export(str(run), "imagefolder", str(tmp_path / "out"))
    return tmp_path / "out"


def flip(file: Path, at: float) -> bytes:
    good = file.read_bytes()
    data = bytearray(good)
    data[int(at * len(data))] ^= 2
    file.write_bytes(data)
    return good


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.99])
def test_a_flipped_bit_anywhere_is_seen_by_export_and_judge(run: Path, out: Path, at: float) -> None:
    files = [p for p in sorted(out.rglob("*")) if p.is_file()]
    assert len(files) == 10
    for file in files:
        good = flip(file, at)
        with pytest.raises(BadInput, match=r"changed since it was exported|cannot be checked") as caught:
            export(str(run), "imagefolder", str(out))
        assert "\n" not in str(caught.value) and file.name in str(caught.value)
        for folder in (out, out / "train"):
            with pytest.raises(BadInput, match=r"export it again, or remove \.raydistill-export\.json"):
                check_ours(Location.of(str(folder)))
        file.write_bytes(good)
    check_ours(Location.of(str(out)))
    assert export(str(run), "imagefolder", str(out)) == (str(out), 0)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"[" * 100_000, b'{"files": 1}', b'{"format":"hf","product":"x","files":{"a":1}}']
)
def test_a_marker_that_is_none_is_one_line(run: Path, out: Path, text: bytes) -> None:
    (out / MARKER).write_bytes(text)
    with pytest.raises(BadInput, match="cannot be checked: ") as caught:
        export(str(run), "imagefolder", str(out))
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="export it again"):
        check_ours(Location.of(str(out)))


def test_a_folder_in_the_place_of_the_marker_or_of_a_file(run: Path, out: Path) -> None:
    for file in (out / "classes.json", out / MARKER):
        file.unlink()
        file.mkdir()
        with pytest.raises(BadInput, match=file.name):
            export(str(run), "imagefolder", str(out))


def test_removing_the_marker_is_the_remedy_for_a_change_that_is_meant(out: Path) -> None:
    flip(next(out.rglob("*.png")), 0.5)
    (out / MARKER).unlink()
    check_ours(Location.of(str(out)))


def test_the_product_of_a_run_is_judged_as_it_was_written(run: Path) -> None:
    location = Location.of(str(run / "distilled"))
    check_ours(location)
    flip(next((run / "distilled").glob("data/*.parquet")), 0.5)
    with pytest.raises(BadInput, match="is not what was written; run the command that made it again"):
        check_ours(location)
