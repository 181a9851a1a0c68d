"""The class lists that ship, and how `source.classes` takes their names."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from samples import config

from raydistill.config import build, class_list, class_lists, load
from raydistill.errors import BadInput
from raydistill.methods.resolve import resolve
from raydistill.sources.base import open_source, select_classes

ROOT = Path(__file__).parents[1]
SIZES = {"idc": 10, "imagenet100": 100, "imagenet1k": 1000, "imagenette": 10, "imagewoof": 10}


def classes(value: Any) -> list[str] | None:
    return build({"source": {"classes": value}}).source.classes


class TestLists:
    def test_all_are_here(self) -> None:
        assert class_lists() == sorted(SIZES)

    @pytest.mark.parametrize("name", sorted(SIZES))
    def test_each_holds_wordnet_ids_once_and_sorted(self, name: str) -> None:
        ids = class_list(name)
        assert len(ids) == SIZES[name] and ids == sorted(set(ids))
        assert all(re.fullmatch(r"n\d{8}", i) for i in ids)

    def test_they_lie_to_one_another_as_published(self) -> None:
        """IDC is a part of ImageNet-100; ImageNette and ImageWoof have no class in common."""
        assert set(class_list("idc")) < set(class_list("imagenet100"))
        assert not set(class_list("imagenette")) & set(class_list("imagewoof"))

    def test_all_are_parts_of_imagenet(self) -> None:
        """Its labels are the sorted ids, from the tench to toilet tissue."""
        whole = class_list("imagenet1k")
        assert whole[0] == "n01440764" and whole[-1] == "n15075141"
        assert all(set(class_list(name)) <= set(whole) for name in SIZES)

    def test_imagenette_is_that_of_the_data(self, shared: Path) -> None:
        known = json.loads((shared / "data" / "imagenette-224" / "classes.json").read_text())
        assert class_list("imagenette") == known["dirs"]

    def test_they_are_part_of_the_package(self) -> None:
        data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["raydistill"]
        files = [p for glob in data for p in (ROOT / "raydistill").glob(glob)]
        assert {p.stem for p in files if p.parent.name == "classlists"} == set(SIZES)


class TestNames:
    @pytest.mark.parametrize("name", sorted(SIZES))
    def test_a_list_is_taken_by_its_name(self, name: str, tmp_path: Path) -> None:
        configuration = load("quickstart", [f"source.classes={name}"])
        assert configuration.source.classes == classes(name) == classes([name]) == class_list(name)
        (tmp_path / "c.yaml").write_text(configuration.yaml())
        assert load(str(tmp_path / "c.yaml")).source.classes == class_list(name)

    @pytest.mark.parametrize("value", [["red"], ["imagewoof", "red"], ["imagewoof", "imagenette"], [], ["", "x"], None])
    def test_other_lists_stay_as_they_are(self, value: list[str] | None) -> None:
        assert classes(value) == value

    def test_another_text_is_one_class(self) -> None:
        assert classes("red") == ["red"] and load("quickstart", ["source.classes=3"]).source.classes == ["3"]

    @pytest.mark.parametrize("value", [3, [3], [["imagewoof"]], {"imagewoof": 1}, True])
    def test_what_is_no_text_is_refused(self, value: Any) -> None:
        with pytest.raises(BadInput, match=r"source\.classes"):
            classes(value)

    def test_a_misspelt_list_is_told(self, tiny_folder: Path) -> None:
        listing = open_source(config("imagefolder", tiny_folder)).list("train")
        with pytest.raises(BadInput, match="did you mean the list 'imagewoof'"):
            select_classes(listing, ["imagewof"])


class TestPresets:
    @pytest.mark.parametrize("name", ["imagenette", "imagewoof", "imagenet100", "imagenet1k"])
    def test_those_of_imagenet_sample_as_released(self, name: str) -> None:
        configuration = load(name)
        assert configuration.source.classes == (None if name == "imagenet1k" else class_list(name))
        assert (configuration.method, configuration.source.image_size, configuration.evaluate.protocol.image_size) == (
            "mgd3",
            256,
            224,
        )
        sampler, guidance = resolve(configuration).config.sampler, configuration.guidance
        assert (sampler.steps, sampler.grid, sampler.cfg_scale, sampler.cfg_channels) == (50, "released", 4.0, "first3")
        assert (guidance.scale, guidance.start, guidance.stop) == (0.1, 1.0, 0.5)

    def test_cifar_is_enlarged_for_the_vae_and_seen_small_by_students(self) -> None:
        configuration = load("cifar10")
        assert (
            configuration.source.kind,
            configuration.source.image_size,
            configuration.evaluate.protocol.image_size,
        ) == ("auto", 64, 32)

    @pytest.mark.parametrize("name", ["nette128", "cifar10", "imagenette", "imagewoof", "imagenet100", "imagenet1k"])
    def test_what_is_missing_is_asked_for(self, name: str) -> None:
        with pytest.raises(BadInput, match=r"give source\.path=DIR"):
            open_source(load(name).source)
