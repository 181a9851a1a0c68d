"""Folders that somebody else distilled: any layout, matched by id or name, refused in one line, imported whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from judged_folders import (
    LAYOUTS,
    SIZE,
    THREE,
    find,
    folders,
    image,
    imported,
    settings,
    weighted,
)
from running import write_digits
from test_exporters import CLASSES, run  # noqa: F401

from raydistill import cli, state
from raydistill import config as configuration
from raydistill.distributed import students
from raydistill.exporters.write import export
from raydistill.methods.weighting import NORMS
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

    def test_a_class_may_be_called_as_a_split(self, tmp_path: Path) -> None:
        vehicles = tuple(ClassInfo(name, name) for name in ("bus", "train"))
        mine = folders(tmp_path / "mine", ("bus", "train"))
        assert find(mine, vehicles).listing.labels.tolist() == [0, 0, 1, 1]
        assert find(folders(tmp_path / "deep" / "train", ("bus", "train")).parent, vehicles).ipc == 2

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
        (["guidance.scale=3"], "leave it out, or compare with what does (evaluate.baselines=[manifoldgd])"),
        (["adaptive.rtol=0.1"], "no set beside the images of mine reads it; leave it out"),
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
