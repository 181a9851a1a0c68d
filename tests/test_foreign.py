"""Folders that somebody else distilled: any layout, matched by id or name, refused in one line, imported whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from running import write_digits
from samples import coloured_png, features, write_tar
from test_exporters import CLASSES, run  # noqa: F401

from raydistill import cli, state
from raydistill import config as configuration
from raydistill.distributed import students
from raydistill.errors import BadInput, StageFailed
from raydistill.exporters.write import export
from raydistill.methods.weighting import NORMS
from raydistill.models.vae import VaeSpec
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.planning import ahead
from raydistill.sources.base import ClassInfo
from raydistill.sources.images import decode
from raydistill.stages import runner
from raydistill.stages.evaluation import trainer
from raydistill.stages.evaluation.image_sets import SetRef, syntheses
from raydistill.stages.syntheses import ingest
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.store.rundir import RunDir

THREE = (ClassInfo("n01", "tench"), ClassInfo("n02", "cock"), ClassInfo("n03", "jay"))
SIZE = 32


def image(label: int, number: int = 0, side: int = SIZE) -> bytes:
    return coloured_png((60 * label, 200 - 40 * label, 30 * number), seed=10 * label + number, shape=(side, side))


def folders(root: Path, names: tuple[str, ...] = ("n01", "n02", "n03"), ipc: int = 2) -> Path:
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(ipc):
            (root / name / f"{number}.png").write_bytes(image(label, number))
    return root


def parquet(path: Path, weights: list[Any] | None = None, names: Any = ("tench", "cock", "jay")) -> Path:
    rows = [(image(label, n), label) for label in range(3) for n in range(2)]
    column = pa.array(
        [{"bytes": b, "path": None} for b, _ in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": column, "label": pa.array([label for _, label in rows], pa.int64())})
    if weights is not None:
        table = table.append_column("weight", pa.array(weights, pa.float64()))
    path.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(features(names)), path / "train-00000-of-00001.parquet")
    return path


def tars(path: Path, weights: list[Any] | None = None) -> Path:
    files = []
    for i in range(6):
        label, number = divmod(i, 2)
        told = {"label": label, **({"weight": weights[i]} if weights is not None and weights[i] != "none" else {})}
        files += [(f"{i:03d}.png", image(label, number)), (f"{i:03d}.json", json.dumps(told).encode())]
    write_tar(path / "train-000000.tar", files)
    (path / "classes.json").write_text(json.dumps({"dirs": ["n01", "n02", "n03"], "names": ["tench", "cock", "jay"]}))
    return path


def settings(images: Path, **more: Any) -> configuration.Config:
    return configuration.load("quickstart", [f"evaluate.images={images}", *(f"{k}={v}" for k, v in more.items())])


def find(images: Path, classes: tuple[ClassInfo, ...] = THREE) -> ingest.JudgedFolder:
    return ingest.find(settings(images), classes)


def refused(images: Path, classes: tuple[ClassInfo, ...] = THREE) -> str:
    with pytest.raises(BadInput) as caught:
        find(images, classes)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"--images {images}: ")
    return line


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "CLASS": folders,
    "train/CLASS": lambda root: folders(root / "train").parent,
    "by name": lambda root: folders(root, ("tench", "cock", "jay")),
    "parquet": parquet,
    "parquet in data/": lambda root: parquet(root / "data").parent,
    "tar": tars,
}


class TestLayouts:
    @pytest.mark.parametrize("layout", list(LAYOUTS))
    def test_every_layout_gives_the_same_set(self, tmp_path: Path, layout: str) -> None:
        judged = find(LAYOUTS[layout](tmp_path / "mine"))
        assert judged.name == "mine" and judged.ipc == 2 and judged.listing.classes == THREE
        assert judged.weights.tolist() == [1.0] * 6
        source = ingest.open_source(judged.source)
        images = list(source.read(judged.listing.split, judged.listing.ids.to_pylist()))
        seen = {(int(label), data) for label, data in zip(judged.listing.labels, images, strict=True)}
        assert seen == {(label, image(label, n)) for label in range(3) for n in range(2)}

    def test_labels_follow_the_training_classes_not_the_folders(self, tmp_path: Path) -> None:
        judged = find(folders(tmp_path / "mine"), (THREE[2], THREE[0], THREE[1]))
        assert judged.listing.labels.tolist() == [1, 1, 2, 2, 0, 0]

    def test_a_link_and_a_trailing_slash_are_followed(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(folders(tmp_path / "elsewhere" / "mine"))
        assert find(tmp_path / "link").ipc == 2
        assert ingest.find(settings(Path(f"{tmp_path}/elsewhere/mine/")), THREE).name == "mine"

    @pytest.mark.parametrize("form", ["imagefolder", "webdataset", "hf"])
    def test_our_own_exports_come_back_whatever_the_classes_are_called(
        self,
        tmp_path: Path,
        run: Path,  # noqa: F811
        form: str,
    ) -> None:
        """Ids with slashes, dots and unicode, names with markup: folders are mapped back, weights travel."""
        export(str(run), form, str(tmp_path / "out"))
        judged = find(tmp_path / "out", CLASSES)
        assert judged.listing.counts.tolist() == [3] * len(CLASSES)
        for label in range(len(CLASSES)):
            assert sorted(judged.weights[judged.listing.labels == label]) == [0.5, 1.0, 1.5]

    def test_a_set_is_told_apart_from_what_it_is_compared_with(self, tmp_path: Path) -> None:
        assert find(folders(tmp_path / "random")).name == "random (images)"

    def test_classes_may_have_different_numbers_of_images(self, tmp_path: Path, capsys: Any) -> None:
        mine = folders(tmp_path / "mine")
        (mine / "n02" / "0.png").unlink()
        assert find(mine).ipc == 2 and "5 images of 32 x 32 in 3 classes, 1 to 2 per class" in capsys.readouterr().err


class TestRefusals:
    def test_a_folder_that_is_not_there_or_empty(self, tmp_path: Path) -> None:
        assert "no such folder" in refused(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        assert "no images sorted by class" in refused(tmp_path / "empty")
        (tmp_path / "classes" / "n01").mkdir(parents=True)
        assert "no images" in refused(tmp_path / "classes")

    def test_a_class_of_another_set(self, tmp_path: Path) -> None:
        line = refused(folders(tmp_path / "mine", ("n01", "n02", "tenhc")))
        assert "'tenhc' is none of the 3 training classes" in line and "did you mean 'tench'?" in line

    def test_a_class_that_lacks_images(self, tmp_path: Path) -> None:
        assert "no image of class 'n03' (jay);" in refused(folders(tmp_path / "mine", ("n01", "n02")))

    def test_a_class_that_comes_twice(self, tmp_path: Path) -> None:
        assert "'n01' and 'tench' are both 'n01'" in refused(folders(tmp_path / "mine", ("n01", "n02", "n03", "tench")))

    def test_images_of_different_sizes(self, tmp_path: Path) -> None:
        mine = folders(tmp_path / "mine")
        (mine / "n02" / "1.png").write_bytes(image(1, 1, 16))
        assert "n01/0.png is 32 x 32, n02/1.png is 16 x 16" in refused(mine)

    def test_what_is_no_image(self, tmp_path: Path) -> None:
        mine = folders(tmp_path / "mine")
        (mine / "n02" / "1.png").write_bytes(b"no image")
        assert "n02/1.png is no image" in refused(mine)

    def test_a_label_out_of_range(self, tmp_path: Path) -> None:
        assert "label 2" in refused(parquet(tmp_path / "mine", names=("tench", "cock")))
        mine = tars(tmp_path / "tars")
        (mine / "classes.json").write_text(json.dumps({"dirs": ["n01", "n02"], "names": ["tench", "cock"]}))
        assert "label 2" in refused(mine)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None])
    @pytest.mark.parametrize("kind", ["parquet", "tar", "jsonl", "csv"])
    def test_a_weight_that_is_no_weight(self, tmp_path: Path, kind: str, value: Any) -> None:
        weights = [1.0, 1.0, 1.0, value, 1.0, 1.0]
        assert "weight of " in refused(weighted(tmp_path / "mine", kind, weights))

    @pytest.mark.parametrize("kind", ["parquet", "tar", "jsonl", "csv"])
    def test_weights_of_which_all_are_zero(self, tmp_path: Path, kind: str) -> None:
        assert "all weights are 0" in refused(weighted(tmp_path / "mine", kind, [0.0] * 6))

    @pytest.mark.parametrize("kind", ["parquet", "tar", "jsonl", "csv"])
    def test_a_class_of_which_all_weights_are_zero(self, tmp_path: Path, kind: str) -> None:
        line = refused(weighted(tmp_path / "mine", kind, [1.0, 2.0, 0.0, 0.0, 0.0, 3.0]))
        assert "all weights of class 'n02' are 0" in line

    @pytest.mark.parametrize("kind", ["parquet", "tar", "jsonl", "csv"])
    def test_a_weight_beyond_float32(self, tmp_path: Path, kind: str) -> None:
        weights = [1.0, 1e39, 1.0, 1.0, 1.0, 1.0]
        assert "is 1e+39; weights are numbers from 0 to 3.4e+38" in refused(weighted(tmp_path / "mine", kind, weights))
        weights[1] = 3e38
        assert find(weighted(tmp_path / "most", kind, weights)).weights[:2].tolist() == pytest.approx([0.0, 2.0])

    def test_a_table_of_weights_that_is_not_looked_at(self, tmp_path: Path) -> None:
        """Above train/, or beside shards, which have weights of their own."""
        mine = folders(tmp_path / "mine" / "train").parent
        table = "file_name,weight\n" + "".join(f"n0{c}/{i}.png,{c + i}\n" for c in (1, 2, 3) for i in (0, 1))
        (mine / "weights.csv").write_text(table)
        assert "mine/weights.csv has weights, and those of images under train/ are read from" in refused(mine)
        (mine / "weights.csv").rename(mine / "train" / "weights.csv")
        assert find(mine).weights[:2].tolist() == pytest.approx([2 / 3, 4 / 3])
        shards = parquet(tmp_path / "shards")
        (shards / "weights.csv").write_text(table)
        assert "Parquet shards are read from their column weight" in refused(shards)
        (shards / "weights.csv").unlink()
        (shards / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a tench"}\n{broken')
        assert find(shards).weights.tolist() == [1.0] * 6, "other tables are none of its business"

    @pytest.mark.parametrize("kind", ["tar", "jsonl"])
    def test_an_image_without_a_weight_among_others(self, tmp_path: Path, kind: str) -> None:
        assert "has no weight" in refused(weighted(tmp_path / "mine", kind, [1.0, 1.0, "none", 1.0, 1.0, 1.0]))

    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_weights_of_more_images_than_there_are(self, tmp_path: Path, kind: str) -> None:
        mine = weighted(tmp_path / "mine", kind, [1.0] * 6)
        (mine / "n02" / "1.png").unlink()
        line = refused(mine)
        assert "has weights of 6 images, and of n02/1.png there is none" in line

    def test_an_image_that_breaks_off_is_named_by_the_import(self, tmp_path: Path) -> None:
        mine = folders(tmp_path / "mine")
        (mine / "n02" / "1.png").write_bytes(image(1, 1)[:200])
        with pytest.raises(StageFailed, match=r"n02/1\.png cannot be used"):
            imported(tmp_path, mine)


def weighted(root: Path, kind: str, weights: list[Any]) -> Path:
    if kind == "parquet":
        return parquet(root, weights)
    if kind == "tar":
        return tars(root, weights)
    folders(root)
    lines = [(f"n0{i // 2 + 1}/{i % 2}.png", w) for i, w in enumerate(weights) if w != "none"]
    if kind == "jsonl":
        text = "".join(json.dumps({"file_name": n, "weight": w}) + "\n" for n, w in lines)
        (root / "metadata.jsonl").write_text(text)
    else:
        (root / "weights.csv").write_text("file_name,weight\n" + "".join(f"{n},{w}\n" for n, w in lines))
    return root


@pytest.mark.parametrize("kind", ["parquet", "tar", "jsonl", "csv"])
def test_weights_reach_their_images(tmp_path: Path, kind: str) -> None:
    judged = find(weighted(tmp_path / "mine", kind, [0.5, 1.5, 0.0, 2.0, 1.25, 0.75]))
    assert judged.weights.tolist() == [0.5, 1.5, 0.0, 2.0, 1.25, 0.75], "of mean 1 in each class they are as they are"


def test_weights_are_brought_to_the_norm_that_is_asked_for(tmp_path: Path, capsys: Any) -> None:
    """A set whose weights have DDOQ's mean 1 / sqrt(K), say, has the rate of others unless it is asked for."""
    mine = weighted(tmp_path / "mine", "csv", [0.4, 1.0, 0.1, 0.1, 3.0, 1.0])
    by_norm = {norm: ingest.find(settings(mine, **{"weights.norm": norm}), THREE) for norm in NORMS}
    assert by_norm["mean"].weights.tolist() == pytest.approx([4 / 7, 10 / 7, 1.0, 1.0, 1.5, 0.5])
    assert by_norm["sum"].weights.tolist() == pytest.approx([2 / 7, 5 / 7, 0.5, 0.5, 0.75, 0.25])
    assert by_norm["inv_sqrt_k"].weights == pytest.approx(by_norm["mean"].weights / 2**0.5)
    assert len({str(judged.parts()) for judged in by_norm.values()}) == 3, "each is a set of its own"
    said = capsys.readouterr().err
    assert "their weights are read, and scaled in each class to the mean 1 (weights.norm=mean)" in said
    find(folders(tmp_path / "plain"))
    assert "no weights lie beside them: all weigh the same" in capsys.readouterr().err


@pytest.mark.parametrize("value", [2.0, 0.1])
def test_equal_weights_are_the_set_without_weights(tmp_path: Path, value: float) -> None:
    """So that what is trained on either is one, to the bit."""
    plain, equal = (find(folders(tmp_path / "mine")), find(weighted(tmp_path / "w" / "mine", "csv", [value] * 6)))
    assert plain.weights.tobytes() == equal.weights.tobytes() and (plain.weighed, equal.weighed) == (False, True)


def imported(tmp_path: Path, mine: Path, **more: Any) -> tuple[ingest.JudgedFolder, runner.Outcome, Any]:
    config = settings(mine, **({"sample.batch": 4} | more))
    judged = ingest.find(config, THREE)
    stage = ingest.stage(config, RunDir(str(tmp_path / "run")), judged, VaeSpec(None))
    return judged, runner.run(stage, runner.serial), stage


class TestImport:
    def test_students_see_the_images_as_they_are(self, tmp_path: Path) -> None:
        """32 px images at source.image_size 32 are not touched; labels and weights go with them."""
        _, outcome, stage = imported(tmp_path, weighted(tmp_path / "mine", "jsonl", [0.5, 1.5, 0.0, 2.0, 1.25, 0.75]))
        assert outcome.manifest.rows == 6 and len(stage.keys) == 2
        source = settings(tmp_path / "mine").source
        images = syntheses(SetRef.of("mine", DistilledSet((outcome.sealed,))), source, SIZE).images
        assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert images.weights.tolist() == [0.5, 1.5, 0.0, 2.0, 1.25, 0.75]
        for n, pixels in enumerate(images.pixels):
            assert np.array_equal(pixels.permute(1, 2, 0), decode(image(*divmod(n, 2)), SIZE, 10**6))

    def test_every_layout_imports_the_same_rows(self, tmp_path: Path) -> None:
        tables = []
        for layout, make in LAYOUTS.items():
            folder = tmp_path / layout.replace("/", "-").replace(" ", "-")
            _, outcome, stage = imported(folder, make(folder / "mine"))
            table = pa.concat_tables([stage.artifact.read_table(r) for r in outcome.manifest.records])
            tables.append(table.drop_columns(["image_id"]))
        assert all(t.equals(tables[0]) for t in tables)

    def test_again_it_is_found_and_changed_images_are_another_set(self, tmp_path: Path) -> None:
        mine = folders(tmp_path / "mine")
        assert not imported(tmp_path, mine)[1].reused and imported(tmp_path, mine)[1].reused
        (mine / "n01" / "0.png").write_bytes(image(2, 5))
        assert not imported(tmp_path, mine)[1].reused
        assert not imported(tmp_path, weighted(tmp_path / "w" / "mine", "csv", [2.0, 1.0] * 3))[1].reused


def test_a_whole_run_judges_it_beside_the_baselines(tmp_path: Path, monkeypatch: Any) -> None:
    """All stages but on Ray: three sets are trained on, the page and the metrics are drawn, no product is claimed."""

    def fit(job: trainer.Job, *_: Any) -> None:
        worker = trainer.StudentTrainer(job, torch.device("cpu"), "cpu")
        for training in job.trainings:
            worker.run(training)

    monkeypatch.setattr(students, "fit", fit)
    torch.set_num_threads(1)
    mine = write_digits(tmp_path / "mine", train=2)
    pictures = sorted((mine / "train").glob("*/*.png"))
    lines = [f"{p.parent.name}/{p.name},{1 + 2 * (i % 2)}\n" for i, p in enumerate(pictures)]
    (mine / "train" / "weights.csv").write_text("file_name,weight\n" + "".join(lines))
    config = settings(mine, **{
        "evaluate.baselines": "[random,kmeans]", "evaluate.seeds": 1, "evaluate.width": 8, "evaluate.full": "false",
        "evaluate.protocol.visits": 32, "evaluate.protocol.evaluations": 1, "run_dir": tmp_path / "run",
        "source.kind": "imagefolder", "source.path": write_digits(tmp_path / "real", train=3, val=1),
    })  # fmt: skip
    prepared = prepare(config)
    done = job.run(prepared, "report", runner.serial)
    heard = json.loads((tmp_path / "run" / "logs" / "news.json").read_text())["stages"]
    planned = {e.stage: e.total for e in ahead.expected(prepared, "report")}
    assert {s["stage"]: s["total"] for s in heard} == planned and planned["import mine"] == 20
    assert list(done.syntheses) == ["mine", "random", "kmeans"]
    assert {s.rows for s in done.syntheses.values()} == {20}
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())
    for name in ("accuracy", "accuracy/random", "accuracy/kmeans"):
        assert any(k.startswith(f"{name}/convnet") and k.endswith("/mean") for k in metrics), metrics
    page = (tmp_path / "run" / "report.html").read_text()
    assert "mine: images weigh unequally, and vary as 1.6 of equal weight in a class would" in page
    assert metrics["effective_sample_size"] == 1.6 and sum("effective" in k for k in metrics) == 1
    assert not (tmp_path / "run" / "distilled").exists()
    again = configuration.load(str(tmp_path / "run" / "config.yaml"))
    assert not job.run(prepare(again), "report", runner.serial).computed


class TestCommandLine:
    def test_it_is_judged_beside_random_and_kmeans_at_its_own_ipc(self, tmp_path: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(tmp_path)
        mine = write_digits(tmp_path / "mine", train=3)
        seen: list[Any] = []
        monkeypatch.setattr(job, "run", lambda p, *_, **__: seen.append(p) or state.Results(p))
        assert cli.main(["evaluate", "--images", "mine", "seeds=2", "full=false"]) == 0
        (prepared,) = seen
        c = prepared.config
        assert (c.method, c.ipc, c.evaluate.seeds, c.evaluate.full) == ("mine", 3, 2, False)
        assert [v.config.method for v in prepared.variants] == ["mine", "random", "kmeans"]
        assert {v.config.ipc for v in prepared.variants} == {3} and prepared.generator is None
        assert c.run_dir == str(tmp_path / "runs" / "quickstart-images") and c.evaluate.images == str(mine)
        again = prepare(configuration.build(c.tree()))
        assert again.config == c and again.judged is not None, "config.yaml continues the run"

    @pytest.mark.parametrize(("more", "says"), [
        (["--run", "."], "exclude each other"), (["ipc=3"], "ipc is the folder's own"),
        (["method=dit"], "method is the folder's own"), (["seeds=0"], "seeds"),
        (["evaluate.baselines=[rando]"], "did you mean 'random'?"), (["source.classes=[0,1]"], "'2' is none of the 2"),
    ])  # fmt: skip
    def test_bad_input_is_one_line_and_nothing_is_written(
        self, tmp_path: Path, monkeypatch: Any, capsys: Any, more: list[str], says: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write_digits(tmp_path / "mine", train=1)
        assert cli.main(["evaluate", "--images", "mine", *more]) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        assert says in line and not (tmp_path / "runs").exists()

    def test_other_verbs_do_not_take_it(self, capsys: Any) -> None:
        assert cli.main(["distill", "--images", "x"]) == 2 and "--images" in capsys.readouterr().err
