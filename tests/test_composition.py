"""Starts and weights with every guidance, on real stages: what runs, what it changes, and the two ends of strength."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from generators import write

from raydistill.config import load
from raydistill.errors import BadInput
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.results.numbers import sample_size
from raydistill.stages.runner import serial
from raydistill.state import Results
from raydistill.store import schemas

GUIDED = {  # method -> what leaves its beginning to `start`, and what takes its guidance away
    "mgd3": ((), ("guidance.scale=0",)),
    "mgd3_ddim": ((), ("guidance.scale=0",)),
    "mgd3_ddim_release": ((), ("guidance.scale=0",)),
    "manifoldgd": (("cluster.leaves=12", "cluster.split_restarts=1"), ("guidance.scale=0",)),
    "pgfm": (("path.t0=0",), ("path.w_max=0",)),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


def asked(shared: Path, method: str, *overrides: str, run: str = "run"):
    small = ("source.classes=[3,7]", "ipc=3", "sampler.steps=8", "cluster.restarts=1", "evaluate.baselines=[]")
    where = (f"artifact_dir={shared / 'artifacts'}", f"run_dir={shared / run}")
    return load("quickstart", [*small, *where, f"method={method}", *overrides])


def sampled(shared: Path, method: str, *overrides: str, run: str = "run") -> tuple[Results, pa.Table]:
    """The run up to its images, and these by class and slot."""
    done = job.run(prepare(asked(shared, method, *overrides, run=run), evaluate=False), "sample", execute=serial)
    table = done.syntheses[method].read()
    return done, table.sort_by([(name, "ascending") for name in schemas.PLACE])


def latents(table: pa.Table) -> np.ndarray:
    return schemas.tensor_numpy(table["latent"]).reshape(len(table), -1)


@pytest.mark.parametrize("method", GUIDED)
def test_a_guided_method_takes_a_start_and_weights(method: str, shared: Path) -> None:
    guided, unguided = GUIDED[method]
    half = (*guided, "start.strength=0.5") if method != "pgfm" else (*guided, "start.snr=0.0892")
    done, table = sampled(shared, method, *half, "weights.mode=sqrt")
    _, whole = sampled(shared, method, *guided)
    _, free = sampled(shared, method, *half, *unguided)
    numbers, every = done.syntheses[method].numbers(), (8 if method == "pgfm" else 4)
    assert numbers.nfe.mean == 2 * every, "with both halves of CFG: half of diffusion's steps, all of a flow's"
    assert not np.allclose(latents(table), latents(free)), "guidance acts on what is left of the path"
    assert not np.allclose(latents(table), latents(whole)), "the path begins elsewhere"
    weights = table["weight"].to_numpy().reshape(2, 3)
    assert weights.mean(1) == pytest.approx(1.0) and np.ptp(weights) > 0 and (whole["weight"].to_numpy() == 1).all()
    assert 1 < done.syntheses[method].effective_sample_size < 3


def test_windows_count_the_steps_that_run(shared: Path) -> None:
    """Of 4 steps that run, guidance.stop=0.5 guides the one above the middle: none of them is above it of all 8."""
    _, guided = sampled(shared, "mgd3", "start.strength=0.5", "guidance.stop=0.5")
    _, free = sampled(shared, "mgd3", "start.strength=0.5", "guidance.scale=0")
    assert not np.allclose(latents(guided), latents(free))
    trace = sampled(shared, "mgd3", "start.strength=0.5", "guidance.stop=0.5")[0].syntheses["mgd3"].numbers().curves()
    assert {step for curve in trace.values() for step, _ in curve} >= {3}


@pytest.mark.parametrize(
    ("method", "overrides", "line"),
    [
        ("mgd3", ("start.strength=0.1",), r"holds none of the 1 steps"),
        ("manifoldgd", ("start.snr=1000000",), r"holds none of the 1 steps"),
        (
            "pgfm",
            ("path.t0=0", "start.strength=0.3"),
            r"path: its window \(t < path\.t_stop=0\.6\) holds none",
        ),
        ("pgfm", ("start.strength=0.9",), r"guidance path begins at t=0\.1 itself"),
    ],
)
def test_what_leaves_no_step_to_guide_is_refused(method: str, overrides: tuple[str, ...], line: str, tmp_path) -> None:
    with pytest.raises(BadInput, match=line):
        prepare(asked(tmp_path, method, *overrides), evaluate=False)
    assert not list(tmp_path.iterdir())


class TestStrength:
    def test_1_is_pure_noise_and_gives_the_bytes_of_dit(self, shared: Path) -> None:
        _, free = sampled(shared, "dit")
        _, whole = sampled(shared, "ddoq", "start.strength=1", "weights.mode=uniform")
        _, default = sampled(shared, "ddoq")
        for name in ("class_index", "slot", "image", "latent", "seed_key", "weight"):
            assert whole[name] == free[name], name
        assert default["image"] != free["image"]

    def test_near_0_gives_the_prototypes_decoded(self, shared: Path) -> None:
        done, table = sampled(shared, "ddoq", "start.strength=0.001", "sampler.steps=1000")
        plan = done.plans["ddoq"].read().sort_by([(name, "ascending") for name in schemas.PLACE])
        prototypes = schemas.tensor_numpy(plan["prototype"]).reshape(len(plan), -1)
        away = np.linalg.norm(latents(table) - prototypes, axis=1) / np.linalg.norm(prototypes, axis=1)
        assert away.max() < 0.03 and done.syntheses["ddoq"].numbers().nfe.mean == 2


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "heun", "adaptive"])
def test_ddoq_begins_at_its_level_on_every_model_under_every_sampler(sampler: str, kind: str, shared: Path) -> None:
    """An untrained network is no way to an image, but the nearer a path begins to its atom the nearer it ends."""
    folder = shared / kind
    generator = str(folder) if folder.exists() else write(folder, kind)
    keys = (f"sampler.name={sampler}", f"generator.path={generator}", "sampler.cfg_scale=1", "adaptive.rtol=0.1")
    if sampler == "adaptive" and kind != "flow":
        with pytest.raises(BadInput, match="knows only its training times"):
            prepare(asked(shared, "ddoq", *keys), evaluate=False)
        return
    far = []
    for snr in (0.0892, 100.0):
        done, table = sampled(shared, "ddoq", *keys, f"start.snr={snr}")
        plan = done.plans["ddoq"].read().sort_by([(name, "ascending") for name in schemas.PLACE])
        far.append(np.square(latents(table) - schemas.tensor_numpy(plan["prototype"]).reshape(len(plan), -1)).mean())
    assert np.isfinite(far).all() and far[1] < 0.5 * far[0]


def test_images_that_weigh_the_same_are_not_said_to_weigh_unequally(shared: Path) -> None:
    """A third each is no other weight than one each: of the classes, nothing varies less or more by it."""
    alike, _ = sampled(shared, "ddoq", "weights.mode=uniform", "weights.norm=sum")
    assert alike.syntheses["ddoq"].read(["weight"])["weight"].to_pylist() == pytest.approx([1 / 3] * 6)
    assert sample_size(alike, "ddoq") is None
    unlike, _ = sampled(shared, "ddoq", "weights.mode=density")
    assert sample_size(unlike, "ddoq") == unlike.syntheses["ddoq"].effective_sample_size


@pytest.mark.parametrize(
    ("method", "uneven", "remedy"),
    [("ddoq", "cluster.batch=1", "cluster.batch=200"), ("d4m", "cluster.expand=1", "cluster.expand=10")],
)
def test_weights_that_leave_few_images_are_told_with_a_setting_that_leaves_more(
    method: str, uneven: str, remedy: str, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = ("ipc=20", "weights.mode=power", "weights.gamma=2", "sampler.steps=2")
    left = []
    for key in (uneven, remedy):
        done, _ = sampled(shared, method, *many, key)
        left.append(done.syntheses[method].effective_sample_size)
        said = [line for line in capsys.readouterr().err.splitlines() if "equal images" in line]
        assert len(said) == (len(left) == 1), (left, said)
        if said:
            assert f"as many as {left[0]:.1f} equal images of 20 a class" in said[0]
            assert f"of 40 atoms are nearest to a single image; {remedy} makes cells more even" in said[0]
    assert left[0] < 10 and left[0] < left[1]
