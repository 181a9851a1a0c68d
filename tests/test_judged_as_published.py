"""Distilled sets as others publish them are judged: numbered folders with their order, and tensors."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged_folders import THREE, find, folders, refused
from test_exporters import CLASSES, original
from test_exporters import run as run  # the fixture

from raydistill import config as configuration
from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.evaluation.colour import STATISTICS
from raydistill.exporters.write import export
from raydistill.results import reporting
from raydistill.sources import tensors
from raydistill.sources.base import open_splits
from raydistill.sources.images import decode
from raydistill.stages.syntheses import ingest
from raydistill.store.location import Location


class TestNumberedFolders:
    @pytest.mark.parametrize("names", [("00000", "00001", "00002"), ("new000", "new001", "new002")])
    def test_are_refused_with_a_remedy_that_works(self, tmp_path: Path, names: tuple[str, str, str]) -> None:
        mine = folders(tmp_path / "mine", names)
        line = refused(mine)
        assert f"its class {names[0]!r} is none" in line and "an order.txt beside them with a class id a line" in line
        (mine / "order.txt").write_text("n02\nn03\nn01\n")
        assert find(mine).listing.labels.tolist() == [1, 1, 2, 2, 0, 0]

    def test_are_read_by_the_names_of_a_classes_json(self, tmp_path: Path) -> None:
        mine = folders(tmp_path / "mine", ("00000", "00001", "00002"))
        (mine / "classes.json").write_text('{"dirs": ["00000", "00001", "00002"], "names": ["n02", "jay", "n01"]}')
        assert find(mine).listing.labels.tolist() == [1, 1, 2, 2, 0, 0]

    @pytest.mark.parametrize(
        ("names", "order", "why"),
        [
            (("00000", "00001", "00002"), "n01\nn02\n", "has 2 class ids, for folders numbered 0 to 1; there are 3"),
            (("00001", "00002", "00003"), "n01\nn02\nn03\n", "there are 3 from 1 to 3"),
            (("00000", "00001", "n03"), "n01\nn02\nn03\n", "and there are others"),
            (("00000", "00001", "00002"), "n01\nn02\nn02\n", "names 'n02' twice"),
            (("00000", "00001", "00002"), "n01\nn02\nn04\n", "is none of the 3 training classes"),
        ],
    )
    def test_with_an_order_that_does_not_fit(
        self, tmp_path: Path, names: tuple[str, ...], order: str, why: str
    ) -> None:
        mine = folders(tmp_path / "mine", names)
        (mine / "order.txt").write_text(order)
        assert why in refused(mine)


class TestTensors:
    def test_are_judged_and_are_no_source_of_a_run(self, tmp_path: Path) -> None:
        mine = self.tensors(tmp_path / "mine", torch.zeros(3, 3, 8, 8))
        with pytest.raises(BadInput, match="`raydistill evaluate --images DIR`"):
            open_splits(SourceConfig(kind="tensors", path=str(mine)))

    def tensors(self, root: Path, images: torch.Tensor, form: str = "pt") -> Path:
        root.mkdir()
        labels = torch.tensor([2, 0, 1])
        (root / "order.txt").write_text("n01\nn02\nn03\n")
        if form == "npz":
            np.savez(root / "set.npz", images=images.numpy(), labels=labels.numpy())
        else:
            torch.save(images, root / "images_best.pt")
            torch.save(labels, root / "labels_best.pt")
        return root

    @pytest.mark.parametrize("form", ["pt", "npz"])
    @pytest.mark.parametrize("kind", ["bytes", "floats", "normalised"])
    def test_are_the_images_that_were_saved(self, tmp_path: Path, form: str, kind: str) -> None:
        pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        images = {"bytes": pixels, "floats": pixels / 255, "normalised": (pixels / 255 - 0.5) / 0.25}[kind]
        mine = self.tensors(tmp_path / "mine", images, form)
        if kind == "normalised":
            (mine / "normalisation.json").write_text('{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}')
        judged = find(mine)
        assert judged.listing.labels.tolist() == [2, 0, 1]
        ids = judged.listing.ids.to_pylist()
        for data, expected in zip(ingest.open_source(judged.source).read("train", ids), pixels, strict=True):
            assert np.array_equal(decode(data, 16, 1000), expected.permute(1, 2, 0))

    def test_of_few_bits_are_the_values_that_they_hold(self, tmp_path: Path) -> None:
        pixels = torch.tensor([0, 64, 128]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
        judged = find(self.tensors(tmp_path / "mine", (pixels / 256).bfloat16()))
        images = ingest.open_source(judged.source).read("train", judged.listing.ids.to_pylist())
        assert [int(decode(data, 8, 1000).max()) for data in images] == [0, 64, 128]

    def test_that_are_sparse_are_refused_with_a_remedy_that_works(self, tmp_path: Path) -> None:
        images = torch.full((3, 3, 8, 8), 0.5)
        assert "images_best.pt holds a sparse tensor; save it dense" in refused(
            self.tensors(tmp_path / "mine", images.to_sparse())
        )
        assert find(self.tensors(tmp_path / "dense", images.to_sparse().to_dense())).ipc == 1

    @pytest.mark.parametrize(
        ("images", "why"),
        [
            (torch.full((3, 3, 8, 8), float("nan")), "from nan to nan"),
            (torch.zeros(3, 1, 8, 8), r"has images (3, 1, 8, 8)"),
            (torch.zeros(2, 3, 8, 8), r"and labels (3,)"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, tmp_path: Path, images: torch.Tensor, why: str) -> None:
        assert why in refused(self.tensors(tmp_path / "mine", images))

    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path) -> None:
        mine = self.tensors(tmp_path / "mine", torch.zeros(3, 3, 8, 8))
        torch.save({"run": Path}, mine / "images_best.pt")
        assert "save tensors and nothing else" in refused(mine)


class TestNormalisedTensors:
    """Without normalisation.json they are taken as what the protocol does to images, if they look like it."""

    @staticmethod
    def photographs() -> torch.Tensor:
        """Plain values (3, 3, 16, 16) in 256 levels, of the mean and deviation that photographs have."""
        values = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.45
        return (values.clamp(0, 1) * 255).round() / 255

    @staticmethod
    def judged(root: Path, images: torch.Tensor, *keys: str) -> ingest.JudgedFolder:
        TestTensors().tensors(root, images)
        return ingest.find(configuration.load("quickstart", [f"evaluate.images={root}", *keys]), THREE)

    @pytest.mark.parametrize(("protocol", "by", "whose"), [("hard", "imagenet", "ImageNet"), ("dsa", "cifar", "CIFAR")])
    def test_are_the_images_before_the_protocols_own_normalisation(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str, by: str, whose: str
    ) -> None:
        plain = self.photographs()
        mean, std = (torch.tensor(three)[:, None, None] for three in STATISTICS[by])
        judged = self.judged(tmp_path / "mine", (plain - mean) / std, f"evaluate.protocol.name={protocol}")
        assert f"taken as by {whose}'s mean and deviation, as protocol {protocol} does" in judged.note
        assert judged.note in capsys.readouterr().err and "cut" not in judged.note
        ids = judged.listing.ids.to_pylist()
        for data, image in zip(ingest.open_source(judged.source).read("train", ids), plain, strict=True):
            assert np.array_equal(decode(data, 16, 1000), (image * 255).round().byte().permute(1, 2, 0))

    def test_what_is_cut_is_counted_whether_it_was_said_or_not(self, tmp_path: Path) -> None:
        normal = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        mean, std = (torch.tensor(three)[:, None, None] for three in STATISTICS["imagenet"])
        plain = normal * std + mean
        cut = ((plain * 255 < -0.5) | (plain * 255 > 255.5)).double().mean()
        share = f"{100 * cut:.2g} % of their values lay outside 0 to 1 and"
        assert self.judged(tmp_path / "mine", normal).note.endswith(f"{share} were cut")
        told = json.dumps(dict(zip(("mean", "std"), STATISTICS["imagenet"], strict=True)))
        (tmp_path / "mine" / "normalisation.json").write_text(told)
        assert find(tmp_path / "mine").note == f"once the normalisation was taken back, {share} were cut"

    @pytest.mark.parametrize("of", ["from -1 to 1", "whitened", "of 0 to 255", "of 0 to 1 and a little more"])
    def test_that_may_be_otherwise_are_refused_with_a_remedy_that_works(self, tmp_path: Path, of: str) -> None:
        plain, mine = self.photographs(), tmp_path / "mine"
        images = {
            "from -1 to 1": 2 * plain - 1,
            "whitened": 1.3 * (plain - 0.5),
            "of 0 to 255": 255 * plain,
            "of 0 to 1 and a little more": 1.3 * plain,
        }[of]
        TestTensors().tensors(mine, images)
        assert "if they were normalised, normalisation.json beside them" in refused(mine)
        mean, std = {"from -1 to 1": (0.5, 0.5), "of 0 to 255": (0, 1 / 255)}.get(of, (0.5, 1 / 1.3))
        (mine / "normalisation.json").write_text(json.dumps({"mean": [mean] * 3, "std": [std] * 3}))
        find(mine)

    def test_are_no_matter_for_whitening(self, tmp_path: Path) -> None:
        """An evaluation that whitens shows no values as they are."""
        keys = ["evaluate.protocol.name=dsa", "evaluate.protocol.zca=true"]
        with pytest.raises(BadInput, match="if they were normalised"):
            self.judged(tmp_path / "mine", torch.randn(3, 3, 16, 16), *keys)

    def test_the_page_says_it_too(self, tmp_path: Path) -> None:
        judged = self.judged(tmp_path / "mine", torch.randn(3, 3, 16, 16))
        assert reporting.on_judged(judged) == [f"mine: {judged.note}"]


class TestOurOwnTensors:
    """`export --format ddranking`, read back: every image of its class and with its weight."""

    def test_are_read_by_class_ids_with_their_weights(self, tmp_path: Path, run: Path) -> None:
        export(str(run), "ddranking", str(tmp_path / "out"))
        judged = find(tmp_path / "out", CLASSES)
        assert judged.source.kind == "tensors" and judged.ipc == 3
        assert judged.listing.labels.tolist() == [label for label in range(6) for _ in range(3)]
        assert judged.weights.tolist() == [0.5, 1.0, 1.5] * 6, "of mean 1 in each class"
        ids = judged.listing.ids.to_pylist()
        for n, data in enumerate(ingest.open_source(judged.source).read("train", ids)):
            assert (decode(data, 12, 10**6) == decode(original(*divmod(n, 3)), 12, 10**6)).all()

    def test_are_matched_whatever_the_order_of_the_classes(self, tmp_path: Path, run: Path) -> None:
        export(str(run), "ddranking", str(tmp_path / "out"))
        turned = tuple(reversed(CLASSES))
        assert find(tmp_path / "out", turned).listing.labels.tolist() == [5 - n // 3 for n in range(18)]

    def test_weights_that_do_not_fit_are_refused(self, tmp_path: Path, run: Path) -> None:
        export(str(run), "ddranking", str(tmp_path / "out"))
        (tmp_path / "out" / ".raydistill-export.json").unlink()
        torch.save(torch.ones(17), tmp_path / "out" / "weights.pt")
        assert "has weights (17,) of 18 images; give one each" in refused(tmp_path / "out", CLASSES)
        (tmp_path / "out" / "weights.pt").unlink()  # the remedy
        assert find(tmp_path / "out", CLASSES).weights.tolist() == [1.0] * 18


def test_dd_rankings_snippet_runs_against_its_interface(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ddranking 0.2.0 has it, which asks for another NumPy: names, defaults and what it refuses, no training."""
    text = (Path(__file__).parents[1] / "docs" / "product.md").read_text()
    (snippet,) = (part.split("```")[0] for part in text.split("```python\n") if "ddranking" in part.split("```")[0])
    handed: dict[str, Any] = {}

    class LabelRobustScoreHard:
        def __init__(
            self, config: Any = None, dataset: str = "CIFAR10", real_data_path: str = "./dataset/", ipc: int = 10,
            model_name: str = "ConvNet-3", data_aug_func: str = "cutmix", aug_params: Any = None,
            optimizer: str = "sgd", lr_scheduler: str = "step", step_size: int | None = None,
            weight_decay: float = 0.0005, momentum: float = 0.9, use_zca: bool = False, num_eval: int = 5,
            im_size: tuple[int, int] = (32, 32), num_epochs: int = 300, real_batch_size: int = 256,
            syn_batch_size: int = 256, use_torchvision: bool = False, num_workers: int = 4,
            save_path: str | None = None, custom_train_trans: Any = None, custom_val_trans: Any = None,
            device: str = "cuda", dist: bool = False, random_data_format: str = "tensor",
            random_data_path: str | None = None, eval_full_data: bool = False,
        ) -> None:  # fmt: skip
            assert aug_params["beta"] and step_size is not None, "it fails on its own defaults"
            handed.update(dataset=dataset)

        def compute_metrics(
            self, image_tensor: Any = None, image_path: Any = None, hard_labels: Any = None,
            syn_lr: float | None = None, lrs_lambda: float = 0.5,
        ) -> dict[str, float]:  # fmt: skip
            handed.update(images=image_tensor, labels=hard_labels)
            hard_label.save_results({"improvement_over_random": [0.0], "lrs": [0.0, 0.0]}, "scores.csv")
            return {"label_robust_score_mean": 0.0}

    def save_results(results: dict[str, list[float]], path: str) -> None:
        raise ValueError("All arrays must be of the same length")

    metrics, hard_label = types.ModuleType("ddranking.metrics"), types.ModuleType("ddranking.metrics.hard_label")
    vars(hard_label).update(save_results=save_results)
    vars(metrics).update(LabelRobustScoreHard=LabelRobustScoreHard, hard_label=hard_label)
    monkeypatch.setitem(sys.modules, "ddranking", types.ModuleType("ddranking"))
    monkeypatch.setitem(sys.modules, "ddranking.metrics", metrics)
    export(str(run), "ddranking", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path / "out")
    exec(snippet, {})
    assert handed["dataset"] == "CIFAR10"
    assert handed["images"].shape == (18, 3, 10, 12) and handed["labels"].dtype == torch.int64
    plain = torch.load("images.pt")
    assert torch.allclose(handed["images"][:, 0] * 0.2023 + 0.4914, plain[:, 0], atol=1e-6)


def test_weights_that_go_with_no_images_are_refused_and_the_name_that_is_given_works(tmp_path: Path) -> None:
    torch.save(torch.zeros(2, 3, 8, 8), tmp_path / "images_best.pt")
    torch.save(torch.tensor([2.0, 1.0]), tmp_path / "weights.pt")
    with pytest.raises(
        BadInput, match=r"weights\.pt goes with no images: those here are images_best\.pt; call it (\S+)"
    ) as said:
        tensors.beside(Location.of(str(tmp_path)), "weights")
    (tmp_path / "weights.pt").rename(tmp_path / str(said.value).rpartition("call it ")[2])
    read = tensors.beside(Location.of(str(tmp_path)), "weights")
    assert read is not None and read.tolist() == [2.0, 1.0]
