"""Folders that somebody else distilled and that cannot be judged: each is refused in one line that says why."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from judged_folders import (
    find,
    folders,
    image,
    parquet,
    refused,
    settings,
    tars,
    weighted,
)

from raydistill.errors import StageFailed
from raydistill.models.vae import VaeSpec
from raydistill.stages import runner
from raydistill.stages.syntheses import ingest
from raydistill.store.rundir import RunDir


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

    def test_a_folder_that_is_hidden(self, tmp_path: Path) -> None:
        line = refused(folders(tmp_path / ".mine"))
        assert "a folder that is called .mine is not looked at; rename it" in line
        assert len(find((tmp_path / ".mine").rename(tmp_path / "mine")).listing) == 6

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

    @pytest.mark.parametrize(
        ("table", "lacks"),
        [
            ("file_name,Weight\nn01/0.png,1\n", "no column weight but file_name, Weight"),
            ("file_name;weight\nn01/0.png;1\n", "no column weight but file_name;weight"),
            ("n01/0.png,1\nn01/1.png,1\n", "no column weight but n01/0.png, 1"),
            ("", "no rows"),
        ],
    )
    def test_a_table_of_weights_without_any(self, tmp_path: Path, table: str, lacks: str) -> None:
        mine = weighted(tmp_path / "mine", "csv", [1.0] * 6)
        (mine / "weights.csv").write_text(table)
        assert f"has {lacks}; give it the columns file_name,weight and a row an image" in refused(mine)
        rows = "".join(f"n0{c}/{i}.png, {c + i}\n" for c in (1, 2, 3) for i in (0, 1))
        (mine / "weights.csv").write_text(f"file_name, weight\n{rows}")
        assert find(mine).weights[:2].tolist() == pytest.approx([2 / 3, 4 / 3])

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

    def test_an_image_that_breaks_off(self, tmp_path: Path) -> None:
        """Beforehand; by the import if it was whole then."""
        mine, run = folders(tmp_path / "mine"), RunDir(str(tmp_path / "run"))
        judged = find(mine)
        (mine / "n02" / "1.png").write_bytes(image(1, 1)[:200])
        assert "n02/1.png cannot be used: " in (line := refused(mine)) and line.endswith("; replace it")
        with pytest.raises(StageFailed, match=r"n02/1\.png cannot be used"):
            runner.run(ingest.stage(settings(mine), run, judged, VaeSpec(None)), runner.serial)
        (mine / "n02" / "1.png").write_bytes(image(1, 1))
        assert find(mine).listing.counts.tolist() == [2, 2, 2]
