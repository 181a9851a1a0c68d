"""What a training leaves: checkpoints that load, records that say how they were made, and damages that are named."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from latents import generator_task, tiny
from safetensors import safe_open
from test_pretrain import _one_thread, vae_task  # noqa: F401

from raydistill.config import load
from raydistill.errors import BadInput, StageFailed
from raydistill.identity import fingerprint
from raydistill.models.checkpoint import PICKLES, WEIGHTS, packaged
from raydistill.models.denoiser import Denoiser, GeneratorSpec
from raydistill.models.device import Placement
from raydistill.models.vae import VaeSpec
from raydistill.pretraining.data import load_pixels
from raydistill.pretraining.output import command
from raydistill.pretraining.plan import Plan, make_plan
from raydistill.pretraining.trainer import Trainer
from raydistill.sources.base import open_splits

STATE = {
    "losses": [3.0, 2.0, 1.0],
    "seconds": 1.5,
    "validation": [(2, 2.5), (3, 2.0)],
    "facts": {"latent_scale": 0.75},
}


def written(tmp_path: Path, *overrides: str) -> tuple[Plan, Path]:
    plan = make_plan(tiny(f"pretrain.out={tmp_path / 'out'}", *overrides))
    assert not plan.finished()
    plan.write(plan.blank(), STATE)
    assert plan.finished()
    return plan, plan.out


def test_a_written_vae_loads_and_scales_latents_to_unit_deviation(tmp_path):
    from diffusers import AutoencoderKL

    plan, out = written(tmp_path, "pretrain.target=vae")
    spec = VaeSpec(str(out))
    net = AutoencoderKL.from_pretrained(str(out), low_cpu_mem_usage=False)
    pixels, _ = load_pixels(plan.source, plan.listing, plan.config.source)
    with torch.inference_mode():
        raw = net.encode(pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)).latent_dist.mode()
    z = (raw - spec.shift_factor) * spec.scaling_factor
    assert z.std().item() == pytest.approx(1.0, abs=2e-3) and z.mean().item() == pytest.approx(0.0, abs=2e-3)
    assert list(spec.latent_shape(32)) == json.loads((out / "training.json").read_text())["latent_shape"]


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_a_written_generator_loads_here_and_in_diffusers(objective, tmp_path):
    import diffusers

    plan, out = written(tmp_path, f"generator.objective={objective}")
    spec = GeneratorSpec(str(out))
    assert spec.predicts.predicts == objective and spec.latent_scale == 0.75 and spec.time_shift == 1.0
    spec.check_vae(VaeSpec(None))
    spec.check_objective(objective)
    net = diffusers.DiTTransformer2DModel.from_pretrained(str(out / "transformer"), low_cpu_mem_usage=False)
    for a, b in zip(net.parameters(), plan.blank().parameters(), strict=True):
        assert torch.equal(a, b.half().float())
    name = json.loads((out / "scheduler" / "scheduler_config.json").read_text())["_class_name"]
    scheduler = getattr(diffusers, name).from_pretrained(str(out / "scheduler"))
    if objective == "flow":
        assert (name, scheduler.config.shift) == ("FlowMatchEulerDiscreteScheduler", 1.0)
        assert spec.predicts.own_times is None and spec.predicts.timestep(0.25) == 750
    else:
        assert scheduler.config.prediction_type == {"epsilon": "epsilon", "v": "v_prediction"}[objective]
        assert np.allclose(scheduler.alphas_cumprod, spec.alphas_bar, rtol=1e-4)
    assert (objective == "epsilon") == spec.learned_variance == (net.config.out_channels == 8)
    denoiser = Denoiser(spec, Placement(torch.device("cpu"), torch.float32, "cpu"), 2.0, "all")
    t = 0.5 if objective == "flow" else float(spec.predicts.own_times[400])
    assert torch.isfinite(denoiser.velocity(torch.zeros(2, 4, 8, 8), t, torch.tensor([0, 9]))).all()


def test_the_record_of_a_generator_tells_how_it_was_made(tmp_path):
    plan, out = written(tmp_path, "generator.objective=flow", "pretrain.time=logit_normal", "pretrain.workers=2")
    record = json.loads((out / "training.json").read_text())
    assert record["objective"] == record["prediction"] == "flow"
    assert (record["velocity"], record["timestep"]) == ("noise - data", "1000 * sigma")
    assert (record["time"], record["workers"], record["vae"]) == ("logit_normal", 2, plan.vae_digest)
    assert record["source"]["digest"] == plan.listing.digest
    assert record["validation_source"]["images"] == 449 and record["validation_loss"] == [[2, 2.5], [3, 2.0]]
    again = load("quickstart", shlex.split(record["command"])[2:])
    assert make_plan(again).fingerprint == plan.fingerprint == record["fingerprint"]


def test_another_training_in_the_folder_is_refused(tmp_path):
    plan, out = written(tmp_path)
    with pytest.raises(BadInput, match="holds another training"):
        dataclasses.replace(plan, config=tiny("seed=8", f"pretrain.out={out}")).finished()


def test_non_finite_weights_are_not_written(tmp_path):
    plan = make_plan(tiny(f"pretrain.out={tmp_path / 'out'}"))
    net = plan.blank()
    next(net.parameters()).data.fill_(math.inf)
    with pytest.raises(StageFailed, match="non-finite"):
        plan.write(net, STATE)
    assert not (tmp_path / "out").exists()


def test_the_packaged_models_are_small_safetensors():
    files = [p for name in ("vae", "generator", "flow") for p in Path(packaged(name)).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 11_000_000
    assert not [p for p in files if p.suffix in PICKLES]
    for path in (p for p in files if p.name == WEIGHTS):
        with safe_open(path, framework="pt") as f:
            assert all(torch.isfinite(f.get_tensor(k)).all() for k in f.keys())  # noqa: SIM118


def test_the_packaged_records_are_those_of_the_packaged_weights():
    vae, generator, flow = (
        json.loads((Path(packaged(n)) / "training.json").read_text()) for n in ("vae", "generator", "flow")
    )
    net = json.loads((Path(packaged("generator")) / "transformer" / "config.json").read_text())
    spec = VaeSpec(None)
    listing = open_splits(load("quickstart").source).train
    assert generator["vae"] == spec.identity()["weights"] and vae["scaling_factor"] == spec.scaling_factor
    assert generator["class_ids"] == [c.class_id for c in listing.classes] == [str(i) for i in range(10)]
    assert generator["null_class_index"] == net["num_embeds_ada_norm"] == 10
    assert net["out_channels"] == 2 * net["in_channels"] and generator["learned_variance"] is True
    assert generator["latent_shape"] == vae["latent_shape"] == list(spec.latent_shape(32))
    assert vae["source"]["digest"] == generator["source"]["digest"] == listing.digest
    assert flow["vae"] == generator["vae"] and flow["class_ids"] == generator["class_ids"]
    assert flow["source"]["digest"] == listing.digest and flow["prediction"] == "flow"
    for record in (vae, generator, flow):
        config = load("quickstart", record["command"].split()[2:])
        assert command(config) == record["command"]
    for record in (vae, flow):
        assert make_plan(load("quickstart", record["command"].split()[2:])).fingerprint == record["fingerprint"]
    assert by_the_first_trainer(generator["command"].split()[2:]) == generator["fingerprint"]


def by_the_first_trainer(overrides: list[str]) -> str:
    """The fingerprint that the command gave when the packaged generator was made."""
    plan = make_plan(load("quickstart", overrides))
    read = ("target", "steps", "batch", "lr", "ema", "threads", "label_dropout", "layers", "heads", "head_dim", "patch")
    keys = {k: plan.config.tree()["pretrain"][k] for k in read}
    return fingerprint("pretrain", 1, plan.config.seed, (32, plan.listing.digest), keys, plan.vae_digest)


def test_a_training_whose_files_were_changed_is_not_taken_for_finished(tmp_path):
    plan, out = written(tmp_path)
    assert plan.finished()
    weights = next(out.rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadInput, match=rf"{weights.name} is not what was written; remove"):
        plan.finished()


@pytest.mark.parametrize(("target", "kind"), [("vae", VaeSpec), ("generator", GeneratorSpec)])
def test_weights_that_were_changed_since_their_training_are_not_used(tmp_path, target, kind):
    _, out = written(tmp_path, f"pretrain.target={target}")
    whole = kind(str(out)).identity()
    weights = next(out.rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadInput, match=rf"{target}.path: {weights} is not what its training wrote"):
        kind(str(out)).identity()
    record = json.loads((out / "training.json").read_text())
    del record["files"][weights.relative_to(out).as_posix()]  # as the line says, of who means it
    (out / "training.json").write_text(json.dumps(record))
    assert kind(str(out)).identity() != whole


@pytest.mark.parametrize("text", [b"{", b"[" * 100_000, b"\xff", b"[]"])
def test_a_record_that_cannot_be_read_is_named(tmp_path, text):
    plan, out = written(tmp_path)
    (out / "training.json").write_bytes(text)
    with pytest.raises(BadInput, match=r"training\.json cannot be read .*; choose another folder"):
        plan.finished()


def test_a_flipped_bit_in_a_checkpoint_is_named(tmp_path):
    trainer = Trainer(generator_task(), 6, 1e-3, 0.9)
    trainer.save(tmp_path / "state.pt")
    data = bytearray((tmp_path / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "state.pt").write_bytes(data)
    with pytest.raises(StageFailed, match="is not what was saved"):
        trainer.load(tmp_path / "state.pt")
