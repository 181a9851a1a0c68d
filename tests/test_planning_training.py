"""generator.path=train in `plan --cluster`: the trainings before the run are stages of the plan."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import write_folder

from raydistill import cli
from raydistill.config import Config, load
from raydistill.errors import BadInput
from raydistill.models.checkpoint import packaged
from raydistill.pipeline import trained
from raydistill.planning.facts import gather
from raydistill.planning.training import pretraining

ROOT = Path(__file__).parents[1]
KEYS = ["source.kind=imagefolder", "generator.path=train", "method=mgd3", "ipc=1", "evaluate.baselines=[]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", {"train": 4, "val": 2})


def config(folder: Path, *more: str) -> Config:
    return load("quickstart", [*KEYS, f"source.path={folder}", f"run_dir={folder.parent / 'run'}", *more])


def test_a_plan_has_both_trainings_before_the_run_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*KEYS, f"source.path={folder}", f"run_dir={folder.parent / 'run'}", "pretrain.steps=700"]
    assert cli.main(["plan", "--cluster", str(ROOT / "cluster.yaml"), "--config", "quickstart", *words]) == 0
    stages = [line.split() for line in capsys.readouterr().out.splitlines()[2:5]]
    assert [s[:3] for s in stages[:2]] == [["pretrain", "vae", "700"], ["pretrain", "generator", "700"]]
    assert stages[2][0] == "encode"
    assert [p.name for p in folder.parent.iterdir()] == ["images"]


def test_their_work_is_three_passes_of_each_image_of_each_step(folder: Path) -> None:
    c, _, facts = gather(
        config(folder, "vae.path=null", "pretrain.steps=600", "pretrain.batch=32", "pretrain.workers=2")
    )
    vae, generator = pretraining(c, facts, gpus=True)
    assert facts.trained == ("vae", "generator") and facts.denoise is not None
    assert vae.flops == pytest.approx(3 * 600 * 32 * (facts.encode.flops + facts.decode.flops))
    assert generator.flops == pytest.approx(3 * 600 * 32 * facts.denoise.flops)
    assert vae.units == 2 and vae.gang and vae.segments == 3 and vae.pool is not None and vae.pool.num_gpus == 1
    deeper = gather(config(folder, "vae.path=null", "pretrain.layers=12"))[2].denoise
    assert deeper is not None and 1.5 < deeper.flops / facts.denoise.flops < 2.1


def test_a_vae_that_is_given_is_not_trained_and_a_start_has_its_own_size(folder: Path) -> None:
    vae, generator = packaged("vae"), packaged("generator")
    facts = gather(config(folder, f"vae.path={vae}"))[2]
    assert facts.trained == ("generator",) and facts.vae is not None
    begun = gather(config(folder, f"vae.path={vae}", f"pretrain.init={generator}"))[2].denoise
    given = gather(load("quickstart", ["evaluate.baselines=[]"]))[2].denoise
    assert begun is not None and given is not None and begun.flops == given.flops


def test_what_was_trained_before_is_no_stage_any_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("quickstart", ["generator.path=train", "evaluate.baselines=[]", f"run_dir={folder.parent / 'run'}"])
    there = {name: SimpleNamespace(out=packaged(name), finished=lambda: True) for name in ("vae", "generator")}
    monkeypatch.setattr(trained, "placed", lambda _, target: there[target])
    c, _, facts = gather(digits)
    assert facts.trained == () and list(pretraining(c, facts, gpus=False)) == []
    assert facts.generator is not None and c.vae.path == str(packaged("vae"))


def test_a_method_that_asks_no_generator_is_refused_as_by_the_run(folder: Path) -> None:
    with pytest.raises(BadInput, match="takes real images and asks no generator"):
        gather(config(folder, "method=kmeans"))
