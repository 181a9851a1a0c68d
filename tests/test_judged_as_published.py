"""Distilled sets as others publish them are judged: numbered folders with their order, and tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_foreign import find, folders, refused

from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.sources.base import open_splits
from raydistill.sources.images import decode
from raydistill.stages.syntheses import ingest


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
            assert "if they were normalised, normalisation.json beside them" in refused(mine)
            (mine / "normalisation.json").write_text('{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}')
        judged = find(mine)
        assert judged.listing.labels.tolist() == [2, 0, 1]
        ids = judged.listing.ids.to_pylist()
        for data, expected in zip(ingest.open_source(judged.source).read("train", ids), pixels, strict=True):
            assert np.array_equal(decode(data, 16, 1000), expected.permute(1, 2, 0))

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
