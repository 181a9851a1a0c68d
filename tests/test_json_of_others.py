"""JSON that somebody else wrote: too deep, of other types, no JSON. One line wherever it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from raydistill import strict_json
from raydistill.config import SourceConfig
from raydistill.distributed import node_log
from raydistill.errors import BadInput
from raydistill.models.checkpoint import licence, number, read_config
from raydistill.sources import columns, shard, weights
from raydistill.sources.layout import class_names
from raydistill.stages.evaluation.checkpoint import Weights
from raydistill.stages.syntheses import ingest
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location

DEEP = b"[" * 100_000
ODD = {
    "deep": DEEP,
    "deep object": b'{"a":' * 100_000,
    "deep below": b'{"dirs": ' + DEEP,
    "empty": b"",
    "torn": b'{"dirs": ["a"',
    "a list": b"[1]",
    "a number": b"1",
    "not UTF-8": b"\xff\xfe{}",
    "not finite": b'{"scaling_factor": NaN}',
    "too large a number": b'{"scaling_factor": 1e999}',
    "a number of many digits": b'{"scaling_factor": ' + b"9" * 5000 + b"}",
}


@pytest.fixture(params=list(ODD))
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "some.json"
    path.write_bytes(ODD[request.param])
    return path


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_it_may_be_nested_so_deep_and_no_deeper(opening: bytes, closing: bytes) -> None:
    inside = b'"[[[{{{\\\\\\"[[["'  # of a string brackets do not count
    for depth in (1, strict_json.MAX_DEPTH):
        strict_json.parse(opening * depth + inside + closing * depth)
        strict_json.parse(b"[" + b",".join([opening * (depth - 1) + inside + closing * (depth - 1)] * 3) + b"]")
    too_deep = strict_json.MAX_DEPTH + 1
    for text in (opening * too_deep + inside + closing * too_deep, b"[]" * 9 + opening * too_deep, opening * 10**5):
        with pytest.raises(ValueError, match="nested more than 64 deep"):
            strict_json.parse(text)


@pytest.mark.parametrize(
    "read",
    [
        lambda file: number(read_config(file, "vae.path"), "scaling_factor", file, "vae.path"),
        lambda file: class_names(Location.of(str(file.rename(file.with_name("classes.json")).parent))),
        lambda file: next(weights._rows(Location.of(str(file))))["a"],
        lambda file: columns.label_names(pa.schema([], {b"huggingface": file.read_bytes()}), "label", "x.parquet"),
    ],
    ids=["checkpoint", "classes.json", "metadata.jsonl", "features"],
)
def test_what_is_needed_is_named(file: Path, read: Callable[[Path], object]) -> None:
    try:
        read(file)
    except BadInput as e:
        assert "\n" not in str(e) and len(str(e)) < 400
    except (StopIteration, KeyError):  # a file of no rows, or of rows with what nobody asks for
        assert file.read_bytes() in (ODD["empty"], ODD["not finite"], ODD["too large a number"])
    else:
        pytest.fail("it was taken")


def test_what_is_only_looked_at_counts_as_not_there(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    with pytest.raises(shard.TarFault) as fault:
        shard._json_label("1.json", data, None)
    assert "\n" not in str(fault.value) and len(str(fault.value)) < 400
    (tmp_path / "training.json").write_bytes(data)
    assert licence(tmp_path) is None
    student = Weights(Location.of(str(tmp_path)), "convnet", "abc")
    (tmp_path / student.files[1]).parent.mkdir(parents=True)
    (tmp_path / student.files[1]).write_bytes(data)
    assert not student.there()
    (tmp_path / "classes.json").write_bytes(data)
    assert ingest._class_ids(str(tmp_path), SourceConfig(kind="imagefolder", path=str(tmp_path)), (), ()) == {}
    artifact = Artifact(Location.of(str(tmp_path)), "encode", "abc")
    (tmp_path / "placement").mkdir()
    (tmp_path / "placement" / "encode-abc.json").write_bytes(data)
    node_log.keep(Location.of(str(tmp_path)), artifact, {"a": "node"})
    kept = json.loads((tmp_path / "placement" / "encode-abc.json").read_bytes())
    assert kept["a"] == "node" and kept.keys() <= {"a", "dirs", "scaling_factor"}


@pytest.mark.parametrize("ids", [[["a"]], [1], "a", None, {"a": 1}])
def test_class_ids_of_other_types_are_none(tmp_path: Path, ids: object) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"dirs": ["x"], "class_ids": ids}))
    class_ids = ingest._class_ids(str(tmp_path), SourceConfig(kind="imagefolder", path=str(tmp_path)), (), ())
    assert class_ids == ({"x": "a"} if ids in ("a", {"a": 1}) else {})
