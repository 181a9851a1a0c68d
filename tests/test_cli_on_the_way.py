"""What goes wrong on the way: one line, exit code 1, and a run that the same command continues.

The stages run in this process, one unit after the other, so nothing here starts Ray.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from finished import without_ray
from PIL import Image
from running import commits, product, write_digits

from raydistill import cli
from raydistill.distributed import executors
from raydistill.stages import runner
from raydistill.store import location, schemas

Run = Callable[..., str]
TINY = ["encode.chunk=7", "encode.batch=4", "ipc=1", "evaluate.baselines=[]"]
STUDENT = [
    "method=random",
    "evaluate.protocol.visits=20",
    "evaluate.width=8",
    "evaluate.full=false",
    "evaluate.seeds=1",
]
GENERATED = ["sampler.steps=2", "sampler.cfg_scale=1"]  # real images have no sampler to read them


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """ends(code, verb, *overrides) runs a verb without Ray and returns what it said, or its one line."""
    monkeypatch.setattr(executors, "on_ray", lambda config, keep: runner.serial)

    def call(code: int, verb: str, *overrides: str) -> str:
        assert cli.main(command(tmp_path, verb, *overrides)) == code
        err = capsys.readouterr().err
        errors = [line for line in err.splitlines() if "error" in line.lower() or "Traceback" in line]
        assert len(errors) == code and all(e.startswith("error: ") for e in errors), err
        return errors[0] if code else err

    return call


def command(tmp_path: Path, verb: str, *overrides: str) -> list[str]:
    images = ["source.kind=imagefolder", f"source.path={tmp_path / 'images'}"]
    generated = [] if "method=random" in overrides else GENERATED
    return [verb, *images, *TINY, *generated, f"run_dir={tmp_path / 'run'}", *overrides]


def latents(run: Path) -> dict[str, np.ndarray]:
    """Latents by image id."""
    by_id = {}
    for file in run.glob("latents/*/data/*.parquet"):
        table = pq.read_table(file)
        by_id.update(zip(table["image_id"].to_pylist(), schemas.tensor_numpy(table["latent"]), strict=True))
    return by_id


class TestBrokenImages:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        """Thirty training images, three of which cannot be used."""
        images = write_digits(tmp_path / "images", train=3)
        (images / "train" / "1" / "000.png").write_bytes(b"")
        (images / "train" / "2" / "001.png").write_bytes(b"GIF89a, they said")
        whole = (images / "train" / "3" / "002.png").read_bytes()
        (images / "train" / "3" / "002.png").write_bytes(whole[: len(whole) // 2])
        return images

    def test_too_many_end_the_run_and_are_listed(self, ends: Run, images: Path, tmp_path: Path) -> None:
        line = ends(1, "encode")
        quarantine = tmp_path / "run" / "logs" / "quarantine.tsv"
        assert "3 of 30 images cannot be used, more than source.max_broken=0.01" in line and str(quarantine) in line
        names = [row.split("\t")[0] for row in quarantine.read_text().splitlines()]
        assert names == ["1/000.png", "2/001.png", "3/002.png"]
        assert all(row.split("\t")[1] for row in quarantine.read_text().splitlines())

    def test_a_raised_limit_continues_without_encoding_again(
        self, ends: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ends(1, "encode")
        before = commits(tmp_path / "run")
        monkeypatch.setattr(runner, "serial", lambda *_: pytest.fail("encoded again"))
        ends(0, "encode", "source.max_broken=0.1")
        assert commits(tmp_path / "run") == before and len(before) == 2 * 5

    def test_what_another_run_has_encoded_is_held_to_the_limit_of_this_one(
        self, ends: Run, images: Path, tmp_path: Path
    ) -> None:
        shared, own = f"artifact_dir={tmp_path / 'shared'}", tmp_path / "own"
        ends(0, "encode", "source.max_broken=0.5", shared)
        listed = (tmp_path / "run" / "logs" / "quarantine.tsv").read_text()
        line = ends(1, "encode", shared, f"run_dir={own}")
        assert "more than source.max_broken=0.01" in line
        assert (own / "logs" / "quarantine.tsv").read_text() == listed
        (tmp_path / "run" / "logs" / "quarantine.tsv").write_text(listed + "test.png\tis broken too\n")
        ends(0, "encode", "source.max_broken=0.5", shared)
        assert "test.png" in (tmp_path / "run" / "logs" / "quarantine.tsv").read_text(), "what others added stays"

    def test_below_the_limit_they_are_counted_and_left_out(self, ends: Run, images: Path, tmp_path: Path) -> None:
        ends(0, "sample", "source.max_broken=0.1")
        run = tmp_path / "run"
        kept = latents(run)
        assert len(kept) == 27 and not {"1/000.png", "2/001.png", "3/002.png"} & set(kept)
        summary = json.loads(next(run.glob("latents/*/manifest.json")).read_text())["summary"]
        assert summary["images"] == 27 and [b[0] for b in summary["broken"]] == ["1/000.png", "2/001.png", "3/002.png"]
        assert len((run / "logs" / "quarantine.tsv").read_text().splitlines()) == 3
        assert pq.read_table(next(run.glob("distilled/data/*.parquet"))).num_rows == 10

    def test_a_class_that_loses_every_image_is_named(self, ends: Run, images: Path, tmp_path: Path) -> None:
        for file in (images / "train" / "4").iterdir():
            file.write_bytes(b"no image")
        line = ends(1, "cluster", "source.max_broken=0.5")
        assert "no image of class '4' could be used" in line and "source.classes" in line
        ends(0, "cluster", "source.max_broken=0.5", "source.classes=[0,1,2,3,5,6,7,8,9]")

    def test_real_images_that_turn_out_too_few_are_said_before_any_is_picked(self, ends: Run, images: Path) -> None:
        line = ends(1, "sample", "source.max_broken=0.5", "method=random", "ipc=3")
        assert "ipc=3 is more than the 2 usable images of class '1'" in line


class TestBrokenTestImages:
    """What students are tested on is held to source.max_broken as what is distilled is."""

    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        """Thirty validation images, all of class 1 and one of class 2 cut short."""
        images = write_digits(tmp_path / "images", train=2, val=3)
        for name in ("1/000", "1/001", "1/002", "2/000"):
            file = images / "val" / f"{name}.png"
            file.write_bytes(file.read_bytes()[:100])
        return images

    def test_too_many_end_the_run_and_are_listed(self, ends: Run, images: Path, tmp_path: Path) -> None:
        with without_ray():
            line = ends(1, "distill", *STUDENT)
        quarantine = tmp_path / "run" / "logs" / "quarantine.tsv"
        assert "4 of 30 images of split 'val' cannot be used, more than source.max_broken=0.01" in line
        assert str(quarantine) in line
        rows = [row.split("\t") for row in quarantine.read_text().splitlines()]
        assert [name for name, _ in rows] == ["val/1/000.png", "val/1/001.png", "val/1/002.png", "val/2/000.png"]
        assert all(reason for _, reason in rows)

    def test_a_class_that_loses_every_image_is_named_and_the_others_are_counted_as_they_were_tested(
        self, ends: Run, images: Path, tmp_path: Path
    ) -> None:
        with without_ray():
            line = ends(1, "distill", *STUDENT, "source.max_broken=0.2")
            assert "no image of class '1' in split 'val' can be used" in line and "source.classes=[...]" in line
            (tmp_path / "images" / "val" / "2" / "001.png").write_bytes(b"")
            few = ("source.classes=[0,2,3]", "source.max_broken=0.3", f"run_dir={tmp_path / 'few'}")
            ends(0, "distill", *STUDENT, *few)
        page = (tmp_path / "few" / "report.html").read_text()
        assert "tested on 7 real images" in page and "Classes have 1 to 3 test images" in page
        assert "2 test images could not be used" in page
        assert len((tmp_path / "few" / "logs" / "quarantine.tsv").read_text().splitlines()) == 2


class TestOddImages:
    def test_every_kind_of_image_survives(self, ends: Run, tmp_path: Path) -> None:
        images = write_digits(tmp_path / "images")
        folder = images / "train" / "0"
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3)).astype(np.uint8))
        picture.save(folder / "upright.png")
        exif = Image.Exif()
        exif[0x0112] = 6  # turn a quarter clockwise to see it upright
        picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
        picture.convert("CMYK").save(folder / "cmyk.jpg")
        picture.convert("L").save(folder / "grey.png")
        picture.convert("I;16").save(folder / "grey16.png")
        picture.convert("P").save(folder / "palette.gif")
        picture.convert("1").save(folder / "bits.png")
        solid = picture.copy()
        solid.putalpha(255)
        solid.save(folder / "alpha.webp", lossless=True)
        picture.convert("LA").save(folder / "grey-alpha.png")
        picture.save(folder / "UPPER.TIFF")
        picture.resize((1, 1)).save(folder / "dot.bmp")
        ends(0, "cluster", "source.max_broken=0")
        encoded = latents(tmp_path / "run")
        assert {f"0/{p.name}" for p in folder.iterdir()} == {i for i in encoded if i.startswith("0/")}
        assert all(z.shape == (4, 8, 8) and np.isfinite(z).all() for z in encoded.values())
        for same in ("turned.png", "alpha.webp", "UPPER.TIFF"):
            assert np.allclose(encoded[f"0/{same}"], encoded["0/upright.png"], atol=2e-3), same
        assert not (tmp_path / "run" / "logs" / "quarantine.tsv").exists()


class TestFullDisks:
    @pytest.mark.parametrize("small_disk", [1024], indirect=True)
    def test_space_that_is_freed_is_used(self, ends: Run, tmp_path: Path, small_disk: Path) -> None:
        write_digits(tmp_path / "images")
        filler, run = small_disk / "run" / "filler", small_disk / "run"
        run.mkdir()
        (run / "raydistill.json").write_text("{}")
        filler.write_bytes(bytes(2**20 - 48 * 1024))
        line = ends(1, "sample", f"run_dir={run}")
        assert "No space left on device; free some space or choose another run_dir" in line
        kept = commits(run)
        filler.unlink()
        ends(0, "sample", f"run_dir={run}")
        ends(0, "sample")
        assert kept.items() <= commits(run).items()
        assert product(run) == product(tmp_path / "run")

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
    def test_wherever_a_write_fails_the_same_command_continues(
        self, ends: Run, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The eighth write fails halfway through. Each repetition comes further and makes nothing whole again."""
        write_digits(tmp_path / "images")
        ends(0, "sample", f"run_dir={tmp_path / 'plain'}")
        write, count, run = location._write_file, [0], tmp_path / "run"

        def fail(path: str, data: bytes) -> None:
            count[0] += 1
            if count[0] == 8:
                write(path, data[: len(data) // 2])
                raise OSError(code, os.strerror(code), path)
            write(path, data)

        monkeypatch.setattr(location, "_write_file", fail)
        failures, kept = 0, commits(run)
        while cli.main(command(tmp_path, "sample")) == 1:
            assert os.strerror(code) in capsys.readouterr().err
            assert kept.items() <= commits(run).items()
            failures, kept, count[0] = failures + 1, commits(run), 0
        assert failures > 3 and kept.items() <= commits(run).items()
        assert product(run) == product(tmp_path / "plain")
