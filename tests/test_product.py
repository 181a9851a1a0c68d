"""The product: exactly the distilled set in the Hugging Face image layout and a card, the same bytes every time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import coloured_png

from raydistill.errors import CorruptArtifact
from raydistill.identity import digest
from raydistill.sources.base import ClassInfo, unique_names
from raydistill.stages.syntheses import product
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.store import schemas, seals
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed

SHAPE = (4, 2, 2)
IPC = 3
PLAIN = (ClassInfo("n01", "tench"), ClassInfo("n02", "English springer"))


def syntheses(root: Path, classes: int = 2, shuffle: int = 0) -> Sealed:
    """IPC images a class, in batches of four as the plan deals them: slot by slot, classes mixed."""
    artifact = Artifact(Location.of(str(root)), "syntheses", "0123456789abcdef")
    rows = [(c, s) for s in range(IPC) for c in range(classes)]
    keys = []
    for n in range(0, len(rows), 4):
        part = rows[n : n + 4]
        table = pa.table(
            {
                "class_index": pa.array([c for c, _ in part], pa.int32()),
                "slot": pa.array([s for _, s in part], pa.int32()),
                "prototype_id": pa.array([s for _, s in part], pa.int32()),
                "weight": pa.array([1.0 + s for _, s in part]),
                "seed_key": [f"0/{c}/{s}/0/0" for c, s in part],
                "image_id": ["real.png" if s == 2 else "" for _, s in part],
                "nfe": pa.array([50] * len(part), pa.int32()),
                "landing": pa.array([0.5] * len(part), pa.float32()),
                "trace": pa.array([[]] * len(part), schemas.TRACE),
                "image": pa.array([coloured_png((40 * c, 30 * s, 9), c) for c, s in part], pa.binary()),
                "latent": schemas.tensor_array(np.zeros((len(part), *SHAPE), np.float32)),
            },
            schema=schemas.syntheses(SHAPE),
        )
        keys.append(f"batch-{n // 4:05d}")
        artifact.commit_table(keys[-1], table, device="cpu")
    return Sealed(artifact, artifact.seal(keys))


@pytest.fixture
def sampled(tmp_path: Path) -> Sealed:
    return syntheses(tmp_path / "syntheses")


def assemble(root: Path, sampled: Sealed, classes: Sequence[ClassInfo] = PLAIN, **more: Any) -> bool:
    options = {"method": "mgd3", "provenance": {"vae": "abc"}, "card": "# A set\n"} | more
    return product.assemble(Location.of(str(root)), DistilledSet((sampled,)), classes, **options)  # type: ignore[arg-type]


def lose(sampled: Sealed) -> None:
    shutil.rmtree(Path(sampled.artifact.location.uri, "data"))


def contents(root: Path) -> dict[str, bytes]:
    folder = root / "distilled"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(root: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(p) for p in sorted(root.glob("distilled/data/*.parquet"))])


def label_names(root: Path) -> list[str]:
    (first, *_) = sorted(root.glob("distilled/data/*.parquet"))
    features = json.loads(pq.read_schema(first).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"} and features["label"]["_type"] == "ClassLabel"
    assert set(features) == set(pq.read_schema(first).names)
    return features["label"]["names"]


def test_it_holds_every_image_in_order(tmp_path: Path, sampled: Sealed) -> None:
    assert assemble(tmp_path / "out", sampled)
    table = read(tmp_path / "out")
    assert table["label"].to_pylist() == [0, 0, 0, 1, 1, 1] and table["slot"].to_pylist() == [0, 1, 2, 0, 1, 2]
    assert table["class_name"].to_pylist() == ["tench"] * 3 + ["English springer"] * 3
    for row in table.to_pylist():
        c, s = row["label"], row["slot"]
        assert row["image"] == {"bytes": coloured_png((40 * c, 30 * s, 9), c), "path": f"n0{c + 1}-{s:05d}.png"}
        assert row["weight"] == 1.0 + s and row["prototype_id"] == s and row["method"] == "mgd3"
        assert row["seed_key"] == f"0/{c}/{s}/0/0"
        real = {"image_id": "real.png"} if s == 2 else {}
        assert json.loads(row["provenance"]) == {"vae": "abc", "nfe": 50, **real}
    assert label_names(tmp_path / "out") == ["tench", "English springer"]


def test_it_holds_nothing_but_shards_and_a_card(tmp_path: Path, sampled: Sealed) -> None:
    assemble(tmp_path / "out", sampled)
    assert sorted(contents(tmp_path / "out")) == ["README.md", "data/train-00000-of-00001.parquet"]
    assert (tmp_path / "out" / "distilled" / "README.md").read_text() == "# A set\n"


def test_its_bytes_depend_on_what_it_holds_alone(tmp_path: Path, sampled: Sealed) -> None:
    assemble(tmp_path / "one", sampled)
    assemble(tmp_path / "two", syntheses(tmp_path / "again"))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assemble(tmp_path / "three", sampled, provenance={"vae": "other"})
    assert contents(tmp_path / "one") != contents(tmp_path / "three")


def test_large_sets_are_cut_into_shards(tmp_path: Path, sampled: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    assemble(tmp_path / "whole", sampled)
    monkeypatch.setattr(product, "SHARD_ROWS", 4)
    assemble(tmp_path / "cut", sampled)
    shards = [n for n in contents(tmp_path / "cut") if n.endswith(".parquet")]
    assert shards == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert read(tmp_path / "cut").equals(read(tmp_path / "whole"))


def test_it_is_written_a_stretch_at_a_time(tmp_path: Path, sampled: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of a thousand classes is more than memory holds, and than a column of Arrow may."""
    seen: list[int] = []
    read_rows = product.InOrder.rows

    def watched(self: product.InOrder, start: int, stop: int) -> pa.Table:
        table = read_rows(self, start, stop)
        seen.append(len(table))
        return table

    assemble(tmp_path / "whole", sampled)
    monkeypatch.setattr(product.InOrder, "rows", watched)
    monkeypatch.setattr(product, "GROUP_ROWS", 2)
    monkeypatch.setattr(product, "SHARD_ROWS", 5)
    assemble(tmp_path / "cut", sampled)
    assert seen == [2, 2, 1, 1], "each row once, and never many at a time"
    assert read(tmp_path / "cut").equals(read(tmp_path / "whole"))


class TestNames:
    @pytest.mark.parametrize(
        "names",
        [
            ("tench, Tinca tinca", "<b>bold</b> & co."),
            ("a/b\\c", ".."),
            ('quo"te', "line\nbreak"),
            ("Käfer", "犬 🐕"),
            (" ", "0"),
        ],
    )
    def test_names_survive_whatever_they_hold(self, tmp_path: Path, sampled: Sealed, names: tuple[str, str]) -> None:
        classes = [ClassInfo(f"n{i}", name) for i, name in enumerate(names)]
        assemble(tmp_path / "out", sampled, classes)
        assert label_names(tmp_path / "out") == list(names)
        assert read(tmp_path / "out")["class_name"].to_pylist() == [n for n in names for _ in range(IPC)]

    def test_ids_with_slashes_give_plain_file_names(self, tmp_path: Path, sampled: Sealed) -> None:
        assemble(tmp_path / "out", sampled, [ClassInfo("a/b", "x"), ClassInfo("../c", "y")])
        paths = [i["path"] for i in read(tmp_path / "out")["image"].to_pylist()]
        assert paths[0] == "a_b-00000.png" and not any("/" in p for p in paths) and len(set(paths)) == len(paths)

    @pytest.mark.parametrize(
        ("classes", "names"),
        [
            ([("n1", "crane"), ("n2", "crane")], ["crane (n1)", "crane (n2)"]),
            ([("n1", "crane"), ("n2", "maillot"), ("n3", "crane")], ["crane (n1)", "maillot", "crane (n3)"]),
            ([("n1", ""), ("n2", "")], ["n1", "n2"]),
            ([("a", "x"), ("b", "x"), ("c", "x (a)")], ["x (a)", "x (b)", "x (a) (c)"]),
        ],
    )
    def test_label_names_are_unique(self, classes: list[tuple[str, str]], names: list[str]) -> None:
        """ImageNet has two cranes and two maillots; ClassLabel refuses a name that comes twice."""
        assert unique_names([ClassInfo(*c) for c in classes]) == names and len(set(names)) == len(classes)

    def test_shared_names_reach_the_product_apart(self, tmp_path: Path, sampled: Sealed) -> None:
        assemble(tmp_path / "out", sampled, [ClassInfo("n1", "crane"), ClassInfo("n2", "crane")])
        assert label_names(tmp_path / "out") == ["crane (n1)", "crane (n2)"]
        assert set(read(tmp_path / "out")["class_name"].to_pylist()) == {"crane (n1)", "crane (n2)"}


class TestAgain:
    def test_a_finished_product_is_left_alone(self, tmp_path: Path, sampled: Sealed) -> None:
        out = tmp_path / "out"
        assert assemble(out, sampled)
        stamps = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.rglob("*")}
        assert not assemble(out, sampled)
        assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.rglob("*")} == stamps

    def test_another_product_is_replaced_whole(self, tmp_path: Path, sampled: Sealed, monkeypatch: Any) -> None:
        out = tmp_path / "out"
        monkeypatch.setattr(product, "SHARD_ROWS", 2)
        assemble(out, syntheses(tmp_path / "larger", classes=3), [*PLAIN, ClassInfo("n03", "church")])
        monkeypatch.setattr(product, "SHARD_ROWS", 5000)
        assert assemble(out, sampled)
        assemble(tmp_path / "fresh", sampled)
        assert contents(out) == contents(tmp_path / "fresh")

    @pytest.mark.parametrize("written", [0, 1, 2])
    def test_an_interrupted_write_is_completed(
        self, tmp_path: Path, sampled: Sealed, monkeypatch, written: int
    ) -> None:
        class Death(BaseException):
            pass

        monkeypatch.setattr(product, "SHARD_ROWS", 4)
        assemble(tmp_path / "fresh", sampled)
        count, write = [0], Location.write

        def dies(self: Location, data: bytes) -> None:
            if count[0] == written:
                write(self, data[: len(data) // 2])
                raise Death
            count[0] += 1
            write(self, data)

        monkeypatch.setattr(Location, "write", dies)
        with pytest.raises(Death):
            assemble(tmp_path / "out", sampled)
        monkeypatch.setattr(Location, "write", write)
        assert contents(tmp_path / "out") != contents(tmp_path / "fresh")
        assert assemble(tmp_path / "out", sampled)
        assert contents(tmp_path / "out") == contents(tmp_path / "fresh")

    @pytest.mark.parametrize("name", ["README.md", "data/train-00000-of-00001.parquet"])
    def test_a_spoiled_or_lost_file_is_mended(self, tmp_path: Path, sampled: Sealed, name: str) -> None:
        out = tmp_path / "out"
        assemble(out, sampled)
        good = contents(out)
        (out / "distilled" / name).write_bytes(good[name][:-1] + b"?")
        assert assemble(out, sampled) and contents(out).items() >= good.items()
        assert contents(out).keys() - good.keys() == {f"{Path(name).name}.mine-{digest(good[name][:-1] + b'?')[:8]}"}
        (out / "distilled" / name).unlink()
        assert assemble(out, sampled) and contents(out).items() >= good.items()

    def test_a_finished_product_is_found_without_the_syntheses(self, tmp_path: Path, sampled: Sealed) -> None:
        out = tmp_path / "out"
        assemble(out, sampled)
        before = contents(out)
        lose(sampled)
        assert not assemble(out, sampled) and contents(out) == before

    @pytest.mark.parametrize(
        "more", [{"card": "# B\n"}, {"method": "dit"}, {"provenance": {}}, {"classes": PLAIN[::-1]}]
    )
    def test_one_that_is_to_be_another_is_not(self, tmp_path: Path, sampled: Sealed, more: dict[str, Any]) -> None:
        assemble(tmp_path / "out", sampled)
        lose(sampled)
        with pytest.raises(CorruptArtifact, match="is missing"):
            assemble(tmp_path / "out", sampled, **more)

    @pytest.mark.parametrize("what", ["code_identity.of", "pa.__version__", "SHARD_ROWS", "GROUP_ROWS"])
    def test_nor_one_that_other_code_would_write(
        self, tmp_path: Path, sampled: Sealed, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        assemble(tmp_path / "out", sampled)
        lose(sampled)
        others = {"code_identity.of": lambda entry: "other", "pa.__version__": "0", "SHARD_ROWS": 7, "GROUP_ROWS": 7}
        monkeypatch.setattr(f"{product.__name__}.{what}", others[what])
        with pytest.raises(CorruptArtifact, match="is missing"):
            assemble(tmp_path / "out", sampled)

    @pytest.mark.parametrize("name", ["README.md", "data/train-00000-of-00001.parquet"])
    def test_a_torn_seal_says_nothing(self, tmp_path: Path, sampled: Sealed, name: str) -> None:
        out = tmp_path / "out"
        assemble(out, sampled)
        seal = Path(seals.location(Location.of(str(out)), f"distilled/{name}").uri)
        whole = seal.read_text()
        seal.write_text(whole.replace('"bytes":', '"bytes": 1'))
        assert not assemble(out, sampled) and seal.read_text() == whole
        seal.write_text(whole[:-1])
        lose(sampled)
        with pytest.raises(CorruptArtifact, match="is missing"):
            assemble(out, sampled)

    def test_seals_of_an_older_version_say_only_which_set_it_is(self, tmp_path: Path, sampled: Sealed) -> None:
        out = tmp_path / "out"
        assemble(out, sampled)
        before = contents(out)
        for name, data in before.items():
            seals.write(Location.of(str(out)), f"distilled/{name}", data, sampled.digest)
        assert not assemble(out, sampled) and contents(out) == before
        lose(sampled)
        assert not assemble(out, sampled), "now they say all of it"

    def test_damaged_syntheses_are_named_and_the_product_stays(self, tmp_path: Path, sampled: Sealed) -> None:
        out = tmp_path / "out"
        assemble(out, sampled)
        before = contents(out)
        record = sampled.records[1]
        path = Path(sampled.artifact.location.uri, record.file)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CorruptArtifact, match=record.file):
            assemble(out, sampled, card="# Another\n")
        assert contents(out) == before
