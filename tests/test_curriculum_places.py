"""A curriculum elsewhere than in a run on a disk: on an object store, in a sweep, beside a folder, in a dry run."""

from __future__ import annotations

from pathlib import Path

import pytest
from curricula import EVALUATE, prepared
from running import write_digits
from tiny_run import config

from raydistill.config import load
from raydistill.errors import BadInput
from raydistill.models.checkpoint import packaged
from raydistill.pipeline.again import reached
from raydistill.pipeline.beforehand import LATER, reservations
from raydistill.pipeline.dry import expected
from raydistill.pipeline.preflight import check_growth, prepare
from raydistill.pipeline.varied import varied
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir


def test_students_that_lead_are_read_from_folders_and_the_remedies_help(tmp_path: Path) -> None:
    """Known before the images are encoded: it was found when the first of them was to be read."""
    v = prepared(tmp_path / "run").variants[0]
    bucket = "s3://bucket/run"
    with pytest.raises(BadInput, match=f"read from folders, and {bucket} is none; give artifact_dir as a path"):
        check_growth(v, RunDir(bucket, None))
    check_growth(v, RunDir(bucket, str(tmp_path / "kept")))
    latent = prepared(tmp_path / "run", learnability={"space": "latent"}).variants[0]
    check_growth(latent, RunDir(bucket, None))


def test_trials_of_a_sweep_are_led_through_the_decoder_that_is_given(tmp_path: Path) -> None:
    p = prepared(tmp_path / "run", learnability={"decoder": packaged("vae"), "scale": 0.1})
    growth = varied(p, p.config).variants[0].growth
    assert growth is not None and growth.next.sampling is not None
    assert growth.next.sampling.decoder is not None
    assert growth.next.sampling.decoder.path == Path(packaged("vae"))


def test_trainings_that_lead_are_no_sign_that_a_run_was_judged(tmp_path: Path) -> None:
    for name in ("evaluations", "syntheses"):
        (tmp_path / name).mkdir()
    root = Location.of(str(tmp_path))
    assert (reached(root), reached(root, trains_before=True)) == ("report", "sample")
    (tmp_path / "result.json").write_text("{}")
    assert reached(root, trains_before=True) == "report"


def test_beside_a_folder_it_makes_as_many_images_as_there_are(tmp_path: Path) -> None:
    """Its increments were counted by the preset's ipc, and a single one of all images passed."""
    three, one = (write_digits(tmp_path / str(n), train=n) for n in (3, 1))
    words = ["evaluate.baselines=[lgd]", f"run_dir={tmp_path / 'run'}", "ipc=1"]
    p = prepare(load("quickstart", [*words, f"evaluate.images={three}/train"]))
    growth = p.variants[1].growth
    assert growth is not None and (p.variants[1].config.ipc, growth.count(3)) == (3, 3)
    with pytest.raises(BadInput, match="ipc=1 is a single increment"):
        prepare(load("quickstart", [*words, f"evaluate.images={one}/train"]))


def test_what_judges_on_the_way_comes_before_the_images() -> None:
    assert LATER["judge"] == LATER["sample"]


def test_only_students_of_images_are_reserved_for_where_none_is_evaluated(tmp_path: Path) -> None:
    def names(**more: object) -> set[str]:
        return {name for name, _ in reservations(prepared(tmp_path / "run", **more), "sample")}

    assert "evaluate" in names() and "evaluate" not in names(learnability={"space": "latent"})


def test_a_dry_run_counts_the_steps_that_run_and_the_parts_of_one_draw(tmp_path: Path) -> None:
    evaluate = EVALUATE | {"seeds": 2, "redundancy_parts": 2}
    amounts = {name: amount for _, name, amount in expected(prepared(tmp_path / "run", evaluate=evaluate), "report")}
    assert amounts["evaluate"].endswith("; 2 on each of 2 parts of lgd")
    half = prepare(config(method="ddoq", run_dir=str(tmp_path / "run"), sampler={"steps": 10}))
    (amount,) = (amount for _, name, amount in expected(half, "sample") if name == "sample ddoq")
    assert amount.endswith(", each in 5 steps of the generator"), "its start leaves the first half out"
