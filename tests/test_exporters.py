"""Exports hold every image, label, name and weight, read back by the libraries they are for; whole, or not there."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from samples import coloured_png
from test_product import IPC, syntheses

from raydistill import cli, registry
from raydistill.config import SourceConfig
from raydistill.errors import BadInput, CorruptArtifact, StageFailed
from raydistill.exporters import webdataset as tars
from raydistill.exporters.names import folder_names
from raydistill.exporters.write import MARKER, export
from raydistill.report.card import card
from raydistill.sources.base import ClassInfo
from raydistill.sources.imagefolder import ImageFolder
from raydistill.sources.webdataset import WebDataset
from raydistill.stages.syntheses import product
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.store import faults, seals
from raydistill.store.artifact import table_bytes
from raydistill.store.location import Location

# Every id and name is hostile to something: paths, CSV, markup, file systems that fold case, the files beside.
CLASSES = (
    ClassInfo("n01", "tench, Tinca tinca"), ClassInfo("N01", '<b>bold</b> & "quoted"'), ClassInfo("..", "a/b\\c"),
    ClassInfo("a/b.c", "line\nbreak"), ClassInfo("metadata.jsonl", "Käfer 犬 🐕"), ClassInfo("犬", ".."),
)  # fmt: skip
FORMATS = registry.names("exporter")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a product of three images in each of the six classes, weights 1, 2 and 3."""
    sealed = syntheses(tmp_path / "syntheses", len(CLASSES))
    text = card(
        "Six classes",
        "mgd3",
        IPC,
        0,
        CLASSES,
        12,
        "imagefolder",
        "dit",
        {"vae": "ab"},
        {"images": None},
        source="Shapes",
    )
    root = Location.of(str(tmp_path / "run"))
    product.assemble(root, DistilledSet((sealed,)), CLASSES, "mgd3", {"vae": "ab"}, text)
    (root / "config.yaml").write(b"{}\n")
    return tmp_path / "run"


@pytest.fixture
def softly(run: Path) -> tuple[Path, np.ndarray]:
    """The same with a column of soft labels (N, C), as a stage of labels would add it; and those labels."""
    (shard,) = (run / "distilled" / "data").glob("*.parquet")
    table = pq.read_table(shard)
    labels = np.random.default_rng(0).dirichlet(np.ones(len(CLASSES)), len(table)).astype(np.float32)
    column = pa.array(labels.tolist(), pa.list_(pa.float32()))
    kept = dict(table.schema.metadata)
    features = json.loads(kept[b"huggingface"])
    features["info"]["features"]["soft_label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"}
    table = table.append_column("soft_label", column)
    table = table.replace_schema_metadata({**kept, b"huggingface": json.dumps(features).encode()})
    seals.write(Location.of(str(run)), f"distilled/data/{shard.name}", table_bytes(table))
    return run, labels


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def original(label: int, slot: int) -> bytes:
    return coloured_png((40 * label, 30 * slot, 9), label)


def load(tmp_path: Path, *what: str, **more: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(*what, split="train", cache_dir=str(tmp_path / "cache"), **more)


def same(image: Any, label: int, slot: int) -> bool:
    return bool((np.asarray(image.convert("RGB")) == np.asarray(Image.open(io.BytesIO(original(label, slot))))).all())


class TestDatasets:
    @pytest.mark.parametrize("where", ["distilled", "hf"])
    def test_the_product_loads_as_it_is(self, tmp_path: Path, run: Path, where: str) -> None:
        if where == "hf":
            export(str(run), "hf", str(tmp_path / "hf"))
        data = load(tmp_path, str(tmp_path / "hf" if where == "hf" else run / "distilled"))
        assert data.features["label"].names == [c.class_name for c in CLASSES]
        for n, row in enumerate(data):
            label, slot = divmod(n, IPC)
            assert row["label"] == label and row["weight"] == 1.0 + slot and same(row["image"], label, slot)

    def test_imagefolder_reads_labels_names_weights_and_soft_labels(self, tmp_path: Path, softly: Any) -> None:
        run, labels = softly
        export(str(run), "imagefolder", str(tmp_path / "out"))
        data = load(tmp_path, "imagefolder", data_dir=str(tmp_path / "out"))
        assert len(data) == len(CLASSES) * IPC
        for n, row in enumerate(data):
            label, slot = divmod(n, IPC)
            assert same(row["image"], label, slot)
            assert (row["label"], row["weight"], row["slot"]) == (label, 1.0 + slot, slot)
            assert (row["class_id"], row["class_name"]) == (CLASSES[label].class_id, CLASSES[label].class_name)
            assert np.allclose(row["soft_label"], labels[n])

    def test_soft_labels_travel_in_parquet(self, tmp_path: Path, softly: Any) -> None:
        run, labels = softly
        export(str(run), "hf", str(tmp_path / "out"))
        assert np.allclose(load(tmp_path, str(tmp_path / "out"))["soft_label"], labels)


class TestImageFolder:
    def test_a_folder_a_class_with_the_bytes_untouched(self, tmp_path: Path, run: Path) -> None:
        export(str(run), "imagefolder", str(tmp_path / "out"))
        tree = json.loads((tmp_path / "out" / "classes.json").read_text())
        assert tree["class_ids"] == [c.class_id for c in CLASSES] and tree["names"] == [c.class_name for c in CLASSES]
        assert len({d.lower() for d in tree["dirs"]}) == len(CLASSES)
        below = sorted(p.name for p in (tmp_path / "out" / "train").iterdir())
        assert below == sorted([*tree["dirs"], "metadata.jsonl"])
        for label, folder in enumerate(tree["dirs"]):
            for slot in range(IPC):
                assert (tmp_path / "out" / "train" / folder / f"{slot:05d}.png").read_bytes() == original(label, slot)

    def test_our_own_source_reads_it(self, tmp_path: Path, run: Path) -> None:
        export(str(run), "imagefolder", str(tmp_path / "out"))
        listing = ImageFolder(SourceConfig(kind="imagefolder", path=str(tmp_path / "out"))).list("train")
        assert {c.class_name for c in listing.classes} == {c.class_name for c in CLASSES}
        assert listing.counts.tolist() == [IPC] * len(CLASSES)

    def test_a_run_that_never_has_a_product_is_told_apart(self, tmp_path: Path, run: Path) -> None:
        shutil.rmtree(run / "distilled")
        shutil.rmtree(run / "seals")
        for tree, file, says in (
            ({}, "config.yaml", "run distill (or sample) to its end first"),
            (
                {"evaluate": {"images": "/theirs"}},
                "config.yaml",
                "it judges those of /theirs, which lie there; export",
            ),
            ({}, "study.json", f"distil with `--config {run}/best.yaml`, and export that run"),
        ):
            (run / "config.yaml").write_text(json.dumps(tree))
            (run / file).write_text(json.dumps(tree))
            with pytest.raises(BadInput, match=re.escape(says)):
                export(str(run), "hf", str(tmp_path / "out"))

    @pytest.mark.parametrize(("ids", "names"), [
        (["n01440764", "n02102040"], ["n01440764", "n02102040"]),
        (["0", "10", "a-b_c.d"], ["0", "10", "a-b_c.d"]),
        (["a/b", "a b", "a_b"], ["00000_a_b", "00001_a_b", "a_b"]),
        ([".", "..", ".hidden", "x."], ["00000_", "00001_", "00002_hidden", "00003_x"]),
        (["n1", "N1"], ["00000_n1", "00001_N1"]),
        (["00001_a", "/a"], ["00001_a", "00001_a_"]),
        (["metadata.jsonl", "CON"], ["00000_metadata_jsonl", "00001_CON"]),
        (["x" * 300], ["00000_" + "x" * 48]),
        (["Grüne Äpfel", "Gru\u0308ne A\u0308pfel", "日本"], ["00000_Grune_Apfel", "00001_Grune_Apfel", "00002_"]),
    ])  # fmt: skip
    def test_folder_names_are_plain_and_different(self, ids: list[str], names: list[str]) -> None:
        assert folder_names(ids) == names


class TestWebDataset:
    def test_the_library_decodes_it(self, tmp_path: Path, softly: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        webdataset = pytest.importorskip("webdataset")
        monkeypatch.setattr(tars, "SHARD", 7)
        run, labels = softly
        export(str(run), "webdataset", str(tmp_path / "out"))
        shards = sorted(str(p) for p in (tmp_path / "out").glob("*.tar"))
        assert [Path(s).name for s in shards] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("png", "cls", "json"))
        assert len(samples) == len(CLASSES) * IPC
        for n, (image, label, told) in enumerate(samples):
            assert (label, told["slot"]) == divmod(n, IPC) and same(image, label, told["slot"])
            assert told["weight"] == 1.0 + told["slot"] and np.allclose(told["soft_label"], labels[n])
            assert (told["class_id"], told["class_name"]) == (CLASSES[label].class_id, CLASSES[label].class_name)

    def test_our_own_source_reads_it(self, tmp_path: Path, run: Path) -> None:
        export(str(run), "webdataset", str(tmp_path / "out"))
        source = WebDataset(SourceConfig(kind="webdataset", path=str(tmp_path / "out")))
        listing = source.list("train")
        assert listing.classes == CLASSES and listing.labels.tolist() == [c for c in range(6) for _ in range(IPC)]
        assert next(iter(source.read("train", [listing.ids[4].as_py()]))) == original(1, 1)


class TestDdRanking:
    def test_the_tensors_hold_the_images_and_labels(self, tmp_path: Path, softly: Any) -> None:
        run, labels = softly
        export(str(run), "ddranking", str(tmp_path / "out"))
        read = {p.stem: torch.load(p, weights_only=True) for p in (tmp_path / "out").glob("*.pt")}
        assert read["images"].shape == (18, 3, 10, 12) and read["images"].dtype == torch.float32
        assert read["labels"].tolist() == [c for c in range(6) for _ in range(IPC)]
        assert read["weights"].tolist() == [1.0, 2.0, 3.0] * 6
        assert torch.equal(read["soft_labels"], torch.from_numpy(labels))
        pixels = np.array(Image.open(io.BytesIO(original(2, 1))), np.float32).transpose(2, 0, 1) / 255
        assert np.array_equal(read["images"][7].numpy(), pixels)

    def test_without_soft_labels_there_is_no_such_file(self, tmp_path: Path, run: Path) -> None:
        export(str(run), "ddranking", str(tmp_path / "out"))
        assert "soft_labels.pt" not in contents(tmp_path / "out")


@pytest.mark.parametrize("form", FORMATS)
class TestEveryFormat:
    def test_the_same_run_gives_the_same_bytes(self, tmp_path: Path, softly: Any, form: str) -> None:
        run, _ = softly
        export(str(run), form, str(tmp_path / "one"))
        export(str(run), form, str(tmp_path / "deep" / "two"))
        assert contents(tmp_path / "one") == contents(tmp_path / "deep" / "two")
        assert str(tmp_path).encode() not in b"".join(contents(tmp_path / "one").values())

    def test_again_is_nothing_to_do(self, tmp_path: Path, run: Path, form: str) -> None:
        _, written = export(str(run), form, str(tmp_path / "out"))
        stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
        assert written > 0 and export(str(run), form, str(tmp_path / "out")) == (str(tmp_path / "out"), 0)
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == stamps

    def test_killed_at_any_point_it_is_not_there_and_then_whole(
        self, tmp_path: Path, run: Path, form: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Death(BaseException):
            pass

        def dies_after(count: int) -> Callable[[str, str, str], None]:
            left = [count]

            def hook(stage: str, point: str, key: str) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise Death

            return hook

        export(str(run), form, str(tmp_path / "undisturbed"))
        points = len(contents(tmp_path / "undisturbed"))  # one before each file, and one before the rename
        for count in {0, 1, points // 2, points - 1}:
            monkeypatch.setattr(faults, "hook", dies_after(count))
            with pytest.raises(Death):
                export(str(run), form, str(tmp_path / "out"))
            assert not (tmp_path / "out").exists()
        monkeypatch.setattr(faults, "hook", None)
        export(str(run), form, str(tmp_path / "out"))
        assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


class TestTargets:
    @pytest.mark.parametrize("spoil", ["theirs", "file", "changed", "lost", "another"])
    def test_what_is_not_this_export_is_left_alone(self, tmp_path: Path, run: Path, spoil: str) -> None:
        out = tmp_path / "out"
        if spoil == "theirs":
            out.mkdir()
            (out / "thesis.tex").write_text("x")
        elif spoil == "file":
            out.write_text("x")
        else:
            export(str(run), "hf" if spoil == "another" else "imagefolder", str(out))
        if spoil == "changed":
            (out / "train" / "n01-notes.txt").write_text("mine")
        elif spoil == "lost":
            (out / "train" / "metadata.jsonl").unlink()
        before = contents(out) if out.is_dir() else out.read_bytes()
        with pytest.raises(BadInput, match="--out") as caught:
            export(str(run), "imagefolder", str(out))
        assert "\n" not in str(caught.value)
        assert (contents(out) if out.is_dir() else out.read_bytes()) == before

    def test_an_empty_folder_is_taken(self, tmp_path: Path, run: Path) -> None:
        (tmp_path / "out").mkdir()
        export(str(run), "hf", str(tmp_path / "out"))
        assert MARKER in contents(tmp_path / "out")

    def test_the_product_itself_and_object_stores_are_refused(self, run: Path) -> None:
        with pytest.raises(BadInput, match="inside the product"):
            export(str(run), "hf", str(run / "distilled" / "hf"))
        with pytest.raises(BadInput, match="local folder"):
            export(str(run), "hf", "s3://bucket/x")

    def test_a_disk_that_refuses_is_one_line(self, tmp_path: Path, run: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises((StageFailed, BadInput), match="file"):
            export(str(run), "hf", str(tmp_path / "file" / "out"))


class TestRuns:
    def test_a_run_without_a_whole_product_is_refused(self, tmp_path: Path, run: Path) -> None:
        location, (shard,) = Location.of(str(run)), (run / "distilled" / "data").glob("*.parquet")
        data = shard.read_bytes()
        shard.write_bytes(data[:-100])
        with pytest.raises(CorruptArtifact, match=f"{shard.name} is not what was written"):
            export(str(run), "hf", str(tmp_path / "out"))
        seals.remove(location, f"distilled/data/{shard.name}")
        seals.write(location, "distilled/data/train-00000-of-00002.parquet", data)
        with pytest.raises(CorruptArtifact, match="not whole"):
            export(str(run), "hf", str(tmp_path / "out"))
        shutil.rmtree(run / "seals")
        with pytest.raises(CorruptArtifact, match="not whole"):
            export(str(run), "hf", str(tmp_path / "out"))
        shard.unlink()
        (run / "distilled" / "data" / "train-00000-of-00002.parquet").rename(shard)
        with pytest.raises(CorruptArtifact, match=r"has no seal, .* run the command that made it again"):
            export(str(run), "hf", str(tmp_path / "out"))
        for file in (run / "distilled" / "data").iterdir():
            file.unlink()
        with pytest.raises(BadInput, match="no images in distilled/"):
            export(str(run), "hf", str(tmp_path / "out"))

    def test_the_command_line(self, tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["export", "--run", str(run), "--format", "imagefolder", "--out", str(tmp_path / "out")]
        assert cli.main(command) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
        for wrong, says in [(["--format", "imagefoldr"], "mean 'imagefolder'?"), (["--run", "x"], "config.yaml"),
                            (["ipc=3"], "ipc=3"), (["--config", "x"], "--config")]:  # fmt: skip
            assert cli.main([*command, *wrong]) == 2
            err = capsys.readouterr().err
            assert err.startswith("error: ") and says in err and err.count("\n") == 1
        assert cli.main(["export", str(run), *command[3:]]) == 0, "found there, without --run"
        assert cli.main(["export", *command[3:]]) == 2 and "name the run: export RUN" in capsys.readouterr().err


def test_an_export_of_a_submitted_job_is_not_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(BadInput, match="--out=images is relative, and a submitted job's"):
        export("run", "imagefolder", "images")
