"""Where the decoded images of a split lie, memory or a file, decides nothing of what is computed from them."""

from __future__ import annotations

import resource
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_run import TinyRun, config

from raydistill import machine
from raydistill.config import EvaluateConfig
from raydistill.distributed import classifiers, students
from raydistill.errors import StageFailed
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.zca import Whitening
from raydistill.sources.base import open_source, open_splits
from raydistill.stages.evaluation import image_sets, pixel_array, trainer
from raydistill.stages.evaluation.image_sets import SetRef, real_images, whitened

CPU, OTHER = torch.device("cpu"), torch.device("meta")
SIDE = 16


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@contextmanager
def largest_file(count: int) -> Iterator[None]:
    """As a disk that has room for so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def every_training(root: Path) -> dict[str, bytes]:
    """By their paths the files that a training on all images leaves: its score, and its network."""
    tiny = TinyRun(root / "run", root)
    short = {"visits": 64, "batch": 8, "image_size": SIDE, "evaluations": 2}
    asked = classifiers.keeping(config(evaluate={"width": 8, "seeds": 1, "protocol": short}))
    students.evaluate(asked, tiny.run, [SetRef.full(tiny.train)], tiny.train, tiny.test)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in ("evaluations", "classifiers")
        for path in sorted((root / "run" / folder).glob("*/data/*"))
    }


class TestLarge:
    """A split that takes more than its share of the memory."""

    def test_a_training_has_the_same_bits_from_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[bool] = []

        def fit(job: trainer.Job, *_: object) -> None:
            worker = trainer.StudentTrainer(job, CPU, "cpu")
            for t in job.trainings:
                worker.run(t)
                seen.extend(worker.real(s, SIDE).images.in_file for s in (job.train, job.test))

        monkeypatch.setattr(students, "fit", fit)
        in_memory = every_training(tmp_path / "memory")
        monkeypatch.setattr(machine, "memory", lambda: 0)
        in_file = every_training(tmp_path / "file")
        assert seen == [False, False, True, True]
        assert len(in_memory) == 2 and in_memory == in_file

    def test_a_broken_image_leaves_no_gap_and_the_file_has_no_name(self, tiny_folder: Path, temporary: Path) -> None:
        asked = config(source={"kind": "imagefolder", "path": str(tiny_folder), "image_size": 32}).source
        listing = open_splits(asked).test
        sorted((tiny_folder / "val").rglob("*.png"))[2].write_bytes(b"not an image")
        memory, file = (real_images(asked, listing, 8, most=most) for most in (None, 0))
        assert file.images.in_file and not memory.images.in_file
        for name in ("pixels", "labels", "weights"):
            assert torch.equal(getattr(file.images, name), getattr(memory.images, name)), name
        assert (file.broken, file.bytes) == (memory.broken, memory.bytes) and len(file.broken) == 1
        assert not list(temporary.iterdir())

    def test_memory_has_an_image_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source, side = config().source, 256
        listing = open_splits(source).test
        blob = next(iter(open_source(source).read(listing.split, listing.ids[:1].to_pylist())))
        monkeypatch.setattr(image_sets, "open_source", lambda _: SimpleNamespace(read=lambda *_: [blob] * len(listing)))
        tracemalloc.start()
        images = real_images(source, listing, side, most=0).images
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(images) == len(listing) > 90 and peak < 20 * pixel_array.size(1, side)

    def test_a_disk_without_room_is_said_in_a_line_that_helps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
    ) -> None:
        """12 images of 16 px are 9,216 bytes, of 8 px 2,304."""
        asked, listing = config().source, TinyRun(tmp_path / "run").test
        with largest_file(9215):
            with pytest.raises(StageFailed, match=r"^evaluate: 12 decoded images of 16 px take a file of 0 MB") as e:
                real_images(asked, listing, 16, most=0)
            assert str(temporary) in str(e.value) and "set TMPDIR" in str(e.value)
            assert len(real_images(asked, listing, 8, most=0).images) == 12
        assert len(real_images(asked, listing, 16, most=0).images) == 12
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(StageFailed, match="No such file or directory; set TMPDIR"):
            real_images(asked, listing, 16, most=0)

    def test_whitened_images_are_in_memory(self, tmp_path: Path) -> None:
        asked, listing = config().source, TinyRun(tmp_path / "run").train
        memory, file = (real_images(asked, listing, 8, most=most).images for most in (None, 0))
        white = whitened(file, Whitening.of(file.pixels))
        assert not white.in_file and torch.equal(white.pixels, whitened(memory, Whitening.of(memory.pixels)).pixels)


class TestImageSet:
    """On another device than the CPU."""

    def images(self, in_file: bool) -> ImageSet:
        pixels = np.arange(5 * 3 * 2 * 2, dtype=np.uint8).reshape(5, 3, 2, 2)
        return ImageSet(torch.from_numpy(pixels), torch.arange(5), torch.ones(5), in_file)

    @pytest.mark.parametrize("in_file", [False, True])
    def test_a_file_stays_where_it_is_and_batches_come_from_it(self, in_file: bool) -> None:
        there = self.images(in_file).to(OTHER)
        assert there.in_file == in_file and there.pixels.device == (CPU if in_file else OTHER)
        assert there.labels.device == there.weights.device == OTHER
        for rows in (torch.tensor([4, 0]), slice(3, 9)):
            assert there.shown(rows).shape == (2, 3, 2, 2) and there.shown(rows).device == OTHER

    def test_rows_are_shown_in_the_order_asked_and_taken_into_memory(self) -> None:
        images = self.images(True)
        assert torch.equal(images.shown(torch.tensor([4, 0])), images.pixels[[4, 0]])
        assert torch.equal(images.shown(slice(3, 9)), images.pixels[3:])
        assert not images.take(torch.tensor([1])).in_file


class TestShare:
    """Training and test images of all workers of a machine take half of its memory at most."""

    def test_it_is_a_quarter_of_what_a_worker_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "memory", lambda: 800)
        assert [pixel_array.most(EvaluateConfig(), n) for n in (1, 2)] == [200, 100]
        assert pixel_array.room(1, 8, 3 * 8 * 8).base is None, "as many bytes as it may be"
        assert isinstance(pixel_array.room(1, 8, 3 * 8 * 8 - 1), np.memmap)

    @pytest.mark.parametrize(
        ("num_gpus", "workers", "gpu"), [(0.0, 1, None), (1.0, 1, 400), (2.0, 1, 400), (0.5, 2, 200)]
    )
    def test_of_its_gpu_too(
        self, monkeypatch: pytest.MonkeyPatch, num_gpus: float, workers: int, gpu: int | None
    ) -> None:
        monkeypatch.setattr(machine, "memory", lambda: 8000)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=400))
        expected = (8000 / workers if gpu is None else gpu) / 4
        assert pixel_array.most(EvaluateConfig(num_gpus=num_gpus), workers) == expected
