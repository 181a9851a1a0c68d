"""Identity comes from content: equal values have one text, different ones have different fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.identity import canonical, digest, directory_digest, file_digest, fingerprint

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), JSON, max_size=6))
def test_canonical_text_knows_no_order(value: dict[str, Any]) -> None:
    assert canonical(value) == canonical(dict(reversed(value.items())))


@given(JSON)
def test_canonical_text_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(canonical(value)) == value


def test_canonical_text_never_changes_between_versions() -> None:
    assert canonical({"b": [1, 2.5, None], "a": {"é": True}}) == '{"a":{"é":true},"b":[1,2.5,null]}'
    assert fingerprint("encode", {"chunk": 256}, 1) == "8b365a39b1fd65f6"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", object()])
def test_canonical_text_refuses_what_json_cannot_hold(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical(value)


def test_a_fingerprint_tells_its_parts_apart() -> None:
    assert (
        len(
            {
                fingerprint("a", "b"),
                fingerprint("ab"),
                fingerprint(["a", "b"]),
                fingerprint("b", "a"),
                fingerprint("a", "b", None),
            }
        )
        == 5
    )
    assert len(fingerprint("a")) == 16 and fingerprint("a").isalnum()


def test_a_digest_is_sha256() -> None:
    assert digest(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_a_file_digest_follows_the_content(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert file_digest(file) == digest(b"one") == file_digest(str(file))
    file.write_bytes(b"three")
    assert file_digest(file) == digest(b"three")
    before = file.stat().st_mtime_ns
    file.write_bytes(b"THREE")
    os.utime(file, ns=(before, before + 1))
    assert file_digest(file) == digest(b"THREE")


def test_a_directory_digest_depends_on_names_and_content_alone(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "vae").mkdir(parents=True)
        (tmp_path / folder / "vae" / "config.json").write_text("{}")
        (tmp_path / folder / "weights").write_bytes(b"w")
        (tmp_path / folder / f"unrelated {folder}").write_bytes(folder.encode())
    names = ["weights", "vae/config.json"]
    assert directory_digest(tmp_path / "a", names) == directory_digest(tmp_path / "b", names[::-1])
    (tmp_path / "b" / "weights").write_bytes(b"v")
    os.utime(tmp_path / "b" / "weights", ns=(1, 1))
    assert directory_digest(tmp_path / "a", names) != directory_digest(tmp_path / "b", names)
    assert directory_digest(tmp_path / "a", names) != directory_digest(tmp_path / "a", names[:1])
    with pytest.raises(FileNotFoundError):
        directory_digest(tmp_path / "a", ["gone"])
