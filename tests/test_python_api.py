"""The Python interface: docs/python.md from top to bottom, names that cost nothing, errors of one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running import environment, write_digits
from samples import write_folder

import raydistill
from raydistill.errors import BadInput, StageFailed

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text()
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SEEN = """
from raydistill.pipeline.preflight import prepare
assert latents.latents.dtype == "float16" and len(latents.latents) == len(latents.labels) == len(latents.image_ids)
assert prototypes.prototypes.shape == (4, 4, 8, 8) and prototypes.sizes.sum() == len(latents.labels)
assert set(prototypes.medoids) <= set(latents.image_ids)
assert syntheses.pixels.shape == (4, 32, 32, 3) and syntheses.slots.tolist() == [0, 1, 0, 1]
assert made.pixels.shape == (1, 32, 32, 3) and made.latents.dtype == "float32" and made.class_ids == ["3"]
assert 0 < score.last <= score.best <= 1 and len(score.curve) == 2
assert prepare(taught).teacher.class_ids == ["3", "7"]
assert raydistill.train_classifier(own, student="convnet", seed=0, epochs=3) == teacher
try:
    raydistill.run(config, until="encode").syntheses()
except raydistill.BadInput as e:
    assert str(e).startswith("this run has no syntheses of method mgd3; run(config, until='sample')")
else:
    raise AssertionError("syntheses of a run that stops before")
print("all seen")
"""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.ray
def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    assert len(CODE) >= 7
    done = python("\n".join([*CODE, SEEN]), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("all seen")
    assert sorted(os.listdir(tmp_path)) == ["mine", "runs"]


def test_importing_it_imports_nothing(tmp_path: Path) -> None:
    heavy = "{'torch', 'ray', 'pydantic', 'numpy', 'pyarrow', 'yaml'}"
    done = python(f"import sys, raydistill; dir(raydistill); print({heavy} & set(sys.modules))", tmp_path)
    assert done.stdout == "set()\n", done.stderr


def test_what_is_public_is_there_and_on_the_page() -> None:
    for name in raydistill.__all__:
        assert getattr(raydistill, name).__name__ == name and name in dir(raydistill)
    used = set(re.findall(r"raydistill\.(\w+)", PAGE))
    assert used <= set(raydistill.__all__)
    assert {n for n in raydistill.__all__ if n[0].islower() or issubclass(getattr(raydistill, n), Exception)} <= used
    with pytest.raises(AttributeError, match="no attribute 'smaple'"):
        _ = raydistill.smaple


def test_the_parts_need_no_ray(tmp_path: Path) -> None:
    code = """
import sys, numpy, raydistill
few = raydistill.load("quickstart", ["sampler.steps=2", "method=dit"])
made = raydistill.sample(numpy.zeros((3, 4, 8, 8)), ["7", "3", "7"], few)
assert made.class_ids == ["7", "3"] and made.labels.tolist() == [0, 1, 0] and made.slots.tolist() == [0, 0, 1]
assert (made.pixels[0] != made.pixels[2]).any()
raydistill.measure("l2", made.latents, made.latents)
print(sys.modules["ray"].is_initialized() if "ray" in sys.modules else False)
"""
    done = python(code, tmp_path)
    assert done.stdout == "False\n", done.stderr


class TestBadInput:
    @pytest.mark.parametrize(
        ("call", "line"),
        [
            (lambda z: raydistill.run(raydistill.load(), until="smaple"), "until='smaple' is no stage; one of encode"),
            (lambda z: raydistill.sample(z[:, :2], ["3"]), "prototypes of shape (1, 2, 8, 8) do not fit 1 class ids"),
            (lambda z: raydistill.sample(z, ["3", "7"]), "do not fit 2 class ids and latents of shape (4, 8, 8)"),
            (lambda z: raydistill.sample(z * np.nan, ["3"]), "prototypes: must be finite"),
            (lambda z: raydistill.sample(z, ["cat"]), "class 'cat' is not one of the generator's"),
            (lambda z: raydistill.sample(z, ["3"], guidance="mod"), "unknown guidance 'mod'; did you mean 'mode'?"),
            (lambda z: raydistill.sample(z, ["3"], guidance="manifold"), "give real=run.latents()"),
            (lambda z: raydistill.sample(z, ["3"], raydistill.load("quickstart", ["method=random"])), "generates no"),
            (
                lambda z: raydistill.sample(z, ["3"], raydistill.load("quickstart", ["method=lgd"])),
                "trains students on the",
            ),
            (lambda z: raydistill.measure("l3", z, z), "unknown metric 'l3'"),
            (lambda z: raydistill.measure("l2", z, z[:, :2]), "vectors of 256 and of 128 numbers"),
            (lambda z: raydistill.measure("l2", z, z, [0]), "give the labels of both sets or of none"),
            (
                lambda z: raydistill.measure("l2", z, z, ["cat"], ["cat"]),
                "labels are <U3, not whole numbers; number the",
            ),
            (lambda z: raydistill.measure("l2", z, z, [0.0], [0.0]), "labels are float64, not whole numbers"),
            (lambda z: raydistill.measure("l2", ["a"], z), "real: no array of numbers"),
            (lambda z: raydistill.train("nowhere"), "--images nowhere: there is no such folder"),
            (lambda z: raydistill.train("nowhere", student="resnet"), "unknown student 'resnet'"),
        ],
    )
    def test_is_one_line(self, call, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BadInput) as said:
            call(np.zeros((1, 4, 8, 8), np.float32))
        assert line in str(said.value) and "\n" not in str(said.value)
        assert not os.listdir(tmp_path)

    def test_labels_are_any_numbers(self) -> None:
        """Of two classes, 3 and 2,084,071: those between are no classes without images."""
        x = np.random.default_rng(0).normal(size=(8, 4))
        far, near = (np.array([a] * 4 + [b] * 4) for a, b in ((3, 2_084_071), (0, 1)))
        told = raydistill.measure("wasserstein", x, x + 1, far, far)
        assert told and told == raydistill.measure("wasserstein", x, x + 1, near, near)
        with pytest.raises(BadInput):
            raydistill.measure("wasserstein", x, x, far[:, None], near)

    def test_a_folder_of_other_classes(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "colours", {"train": 2})
        with pytest.raises(BadInput, match="colours: "):
            raydistill.train(str(tmp_path / "colours"))

    def test_test_images_that_are_broken_beyond_the_limit_are_said(self, tmp_path: Path) -> None:
        images = write_digits(tmp_path / "images", train=3, val=2)
        (images / "val" / "4" / "000.png").write_bytes(b"")
        from_folder = ["source.kind=imagefolder", f"source.path={images}", "evaluate.protocol.visits=20"]
        with pytest.raises(StageFailed, match=r"1 of 20 images of split 'val' .* raise the limit"):
            raydistill.train(str(images), raydistill.load("quickstart", from_folder))
        score = raydistill.train(str(images), raydistill.load("quickstart", [*from_folder, "source.max_broken=0.05"]))
        assert score.tested == [2, 2, 2, 2, 1, 2, 2, 2, 2, 2]

    def test_weights_beside_images_are_obeyed_unless_a_mode_goes_before(self, tmp_path: Path) -> None:
        mine, quick = write_digits(tmp_path / "mine", train=2), ["evaluate.protocol.visits=40", "evaluate.width=8"]

        def score(*more: str) -> object:
            return raydistill.train(str(mine), raydistill.load("quickstart", [*quick, *more]))

        plain = score()
        rows = "".join(f"{c}/{i:03d}.png,{1 + 2 * i}\n" for c in range(10) for i in (0, 1))
        (mine / "train" / "weights.csv").write_text(f"file_name,weight\n{rows}")
        assert score() != plain and score("weights.mode=uniform") == plain
        with pytest.raises(BadInput, match=r"weights\.mode=density .* mine has none; choose weights\.mode=uniform"):
            score("weights.mode=density")
