"""Manifold guidance in the pipeline: which real latents it sees, what it leaves behind, and that it changes images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_run import TinyRun, config

from raydistill.errors import BadInput, StageFailed
from raydistill.guidance.context import around
from raydistill.methods.resolve import Variant, resolve
from raydistill.pipeline.preflight import prepare
from raydistill.stages import runner
from raydistill.stages.runner import serial
from raydistill.stages.syntheses import plan, sample
from raydistill.store import schemas
from raydistill.store.sealed import Sealed

MANIFOLD = {"nearest": 4, "neighbours": 6, "tangent_dim": 2}


def test_the_nearest_come_first_and_the_rest_is_nan() -> None:
    latents = np.arange(5, dtype=np.float16).reshape(5, 1, 1, 1)
    neighbours = around(latents, np.full((1, 1, 1), 3.2, np.float32), 7)
    assert neighbours[:5].ravel().tolist() == [3.0, 4.0, 2.0, 1.0, 0.0] and np.isnan(neighbours[5:]).all()


def sampled(tiny: TinyRun, **more: object) -> tuple[pa.Table, pa.Table]:
    """Plan and syntheses of manifoldgd over a finished run."""
    tree = {"method": "manifoldgd", "manifold": MANIFOLD, "guidance": {"stop": 0.0, "scale": 0.5}, **more}
    v = resolve(config(**tree))
    anchors = tiny.sealed("cluster")
    real = tiny.sealed("group")
    first = plan.stage(v, tiny.run, tiny.sealed("group"), anchors, tiny.train.classes, tiny.shape)
    planned = runner.run(first, serial).sealed
    second = sample.stage(v, tiny.run, planned, real, tiny.train, tiny.vae, tiny.generator)
    return planned.read(), runner.run(second, serial).sealed.read()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("manifold"))
    run.finish(("encode", "group", "cluster"))
    return run


def test_slots_of_a_class_share_batches_so_that_its_latents_are_read_once(tiny: TinyRun) -> None:
    planned, _ = sampled(tiny)
    index = planned["class_index"].to_pylist()
    assert index == sorted(index) and planned["slot"].to_pylist() == [0, 1, 2, 0, 1, 2]


def test_the_worker_sees_the_latents_of_the_slots_own_class(tiny: TinyRun) -> None:
    v = resolve(config(method="manifoldgd", manifold=MANIFOLD, guidance={"stop": 0.0}))
    real = tiny.sealed("group")
    stage = sample.stage(v, tiny.run, _plan_of(tiny, v), real, tiny.train, tiny.vae, tiny.generator)
    loaded = stage.work.load(stage.items(stage.keys[0]))
    for row, (index, anchor) in enumerate(
        zip(loaded.table["class_index"].to_pylist(), schemas.tensor_numpy(loaded.table["prototype"]), strict=True)
    ):
        every = real.read()
        mine = schemas.tensor_numpy(every.filter(pa.compute.equal(every["class_index"], index))["latent"])
        far = sorted(np.square(mine.astype(np.float64) - anchor).sum((1, 2, 3)))[:6]
        distances = np.square(loaded.context["neighbours"][row].astype(np.float64) - anchor).sum((1, 2, 3))
        np.testing.assert_allclose(distances, far, rtol=1e-4)


def _plan_of(tiny: TinyRun, v: Variant) -> Sealed:
    anchors = tiny.sealed("cluster")
    stage = plan.stage(v, tiny.run, tiny.sealed("group"), anchors, tiny.train.classes, tiny.shape)
    return runner.run(stage, serial).sealed


def test_every_guided_step_leaves_its_numbers(tiny: TinyRun) -> None:
    _, table = sampled(tiny)
    for row in table.to_pylist():
        names = {t["name"] for t in row["trace"]}
        assert names == {"push", "cosine", "distance", "explained", "removed"}
        assert all(np.isfinite(t["value"]) and t["value"] > -1e-3 for t in row["trace"])
        assert {t["step"] for t in row["trace"]} == {1} and row["landing"] > 0


def test_variants_and_settings_are_separate_syntheses(tiny: TinyRun) -> None:
    images = [
        sampled(tiny, **more)[1]["image"].to_pylist()
        for more in (
            {},
            {"manifold": {**MANIFOLD, "normal_weight": 0.0}},
            {"manifold": {"variant": "normal_correction", "cloud": 20, "correction_scale": 20.0}},
        )
    ]
    assert len({tuple(i) for i in images}) == 3


def test_a_class_smaller_than_the_tangent_asks_is_refused_beforehand(tmp_path: Path) -> None:
    tree = config(method="manifoldgd", manifold={"nearest": 200, "neighbours": 300}, run_dir=str(tmp_path / "run"))
    with pytest.raises(BadInput, match=r"manifold.nearest=200 needs 200 images of a class, .* has \d+; lower it"):
        prepare(tree)
    assert not (tmp_path / "run").exists()


def test_and_on_the_way_if_images_broke(tiny: TinyRun) -> None:
    with pytest.raises(StageFailed, match=r"usable images, and manifold.nearest=50 needs 50; lower it"):
        sampled(tiny, manifold={"nearest": 50, "neighbours": 60})
