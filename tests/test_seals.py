"""Seals: a file that people read is whole, or it is known that it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydistill import strict_json
from raydistill.errors import CorruptArtifact
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.seals import State

NAME = "distilled/data/train-00000-of-00001.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Location:
    location = Location.of(str(tmp_path / "run"))
    seals.write(location, NAME, b"some bytes", "abc")
    return location


def test_what_was_sealed_comes_back(root: Location) -> None:
    assert seals.state(root, NAME) is State.WHOLE
    assert seals.read(root, NAME, "run it again") == b"some bytes"
    assert seals.find(root, NAME).made_from == "abc"
    assert seals.names(root) == [NAME]


@pytest.mark.parametrize("bit", range(0, 80, 7))
def test_every_flipped_bit_is_seen_in_the_file(root: Location, bit: int) -> None:
    data = bytearray(b"some bytes")
    data[bit // 8] ^= 1 << bit % 8
    Path(f"{root}/{NAME}").write_bytes(data)
    assert seals.state(root, NAME) is State.CHANGED
    with pytest.raises(CorruptArtifact, match=r"is not what was written .*; run it again"):
        seals.read(root, NAME, "run it again")


def test_every_flipped_bit_is_seen_in_the_seal(root: Location) -> None:
    file = next(Path(f"{root}/seals").iterdir())
    whole = file.read_bytes()
    for i in range(8 * len(whole)):
        data = bytearray(whole)
        data[i // 8] ^= 1 << i % 8
        file.write_bytes(data)
        assert seals.find(root, NAME) is None
    assert seals.state(root, NAME) is State.UNSEALED


def test_a_folder_or_nothing_in_the_place_of_a_file(root: Location) -> None:
    file = Path(f"{root}/{NAME}")
    file.unlink()
    assert seals.state(root, NAME) is State.MISSING
    file.mkdir()
    assert seals.state(root, NAME) is State.CHANGED
    with pytest.raises(CorruptArtifact, match="is no file; run it again"):
        seals.read(root, NAME, "run it again")


def test_the_seal_of_another_file_is_none(root: Location) -> None:
    seals.write(root, "result.json", b"{}")
    a, b = sorted(Path(f"{root}/seals").iterdir())
    a.write_bytes(b.read_bytes())
    assert seals.find(root, NAME) is None


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'{"a": ' * 100_000, "nested"),
        (b"[1, 2", "delimiter"),
        (b'{"a": NaN}', "NaN"),
        (b"\xff\xfe\x00", "decode"),
        (b'"' + b"a" * 200 + b'"', "200|202"),
    ],
)
def test_json_that_is_none(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        strict_json.parse(data, 150 if b"aaaa" in data else 2**20)


def test_brackets_in_strings_do_not_count() -> None:
    assert strict_json.parse(b'["' + b"[" * 1000 + b'\\"{{", {"a": [1.5, null, true]}]') == [
        "[" * 1000 + '"{{',
        {"a": [1.5, None, True]},
    ]
    with pytest.raises(ValueError, match="not an object"):
        strict_json.mapping(b"[]")
