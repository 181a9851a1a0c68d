"""Fine-tuning: a checkpoint's conventions are kept, its classes found by id, and what is not trained keeps its bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import generators
import numpy as np
import pytest
import torch
from latents import tiny, training_latents
from released_dit import random_weights
from safetensors.torch import load_file, save_file

from raydistill.errors import BadInput
from raydistill.models.checkpoint import WEIGHTS
from raydistill.models.convert import convert
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.vae import VaeSpec
from raydistill.pretraining.plan import Plan, make_plan
from raydistill.pretraining.trainer import Trainer, read_state

NETTE_FLOW = {"prediction": "flow_velocity", "velocity": "noise - data", "timestep": "1000 * sigma"}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(tmp_path: Path, kind: str = "flow", scheduler: dict[str, Any] | None = None, **training: Any) -> str:
    return generators.write(tmp_path / "checkpoint", kind, scheduler, **training)


def planned(tmp_path: Path, init: str, *overrides: str) -> Plan:
    return make_plan(tiny(f"pretrain.out={tmp_path / 'out'}", f"pretrain.init={init}", *overrides))


def trained(plan: Plan, steps: int, tmp_path: Path) -> dict[str, Any]:
    classes = len(plan.listing.classes)
    rng = np.random.default_rng(0)
    latents = training_latents(rng.standard_normal((12, *plan.latent_shape)), np.arange(12) % classes)
    trainer = Trainer(plan.generator_task(latents, "cpu"), steps, 1e-2, 0.5)
    while trainer.step < steps:
        trainer.advance()
    trainer.save(tmp_path / "state.pt")
    return read_state(tmp_path / "state.pt")


def written(plan: Plan, state: dict[str, Any]) -> dict[str, Any]:
    net = plan.blank()
    net.load_state_dict(state["ema"])
    plan.write(net, state)
    return json.loads((plan.out / "training.json").read_text())


def test_a_flow_stays_what_it_was(tmp_path):
    init = checkpoint(tmp_path, "flow", {"shift": 3.0}, latent_scale=1.25, **NETTE_FLOW)
    plan = planned(tmp_path, init)
    record = written(plan, trained(plan, 2, tmp_path))
    spec = GeneratorSpec(str(plan.out))
    assert (spec.latent_scale, spec.time_shift, spec.class_ids) == (1.25, 3.0, generators.CLASSES)
    assert {k: record[k] for k in NETTE_FLOW} == NETTE_FLOW and record["objective"] == "flow"
    assert record["fine_tuned_from"]["weights"] == GeneratorSpec(init).identity()["weights"]
    assert record["vae"] == VaeSpec(None).identity()["weights"]
    assert record["dtype"] == "float32", "as the checkpoint"


def test_the_sizes_of_a_network_from_scratch_are_not_read(tmp_path):
    init = checkpoint(tmp_path)
    of = planned(tmp_path, init)
    assert of.fingerprint == planned(tmp_path, init, "pretrain.layers=3", "pretrain.heads=1").fingerprint
    assert of.fingerprint == planned(tmp_path, init, "generator.objective=flow").fingerprint
    assert of.fingerprint != planned(tmp_path, init, "pretrain.trainable=vectors").fingerprint


@pytest.mark.parametrize(
    ("kind", "told"),
    [("flow", NETTE_FLOW), ("flow", {"velocity": "data - noise", "timestep": "t"}), ("v", {}), ("epsilon", {})],
)
def test_only_vectors_are_trained(tmp_path, kind, told):
    init = checkpoint(tmp_path, kind, **told)
    plan = planned(tmp_path, init, "pretrain.trainable=vectors")
    written(plan, trained(plan, 3, tmp_path))
    before, after = (load_file(Path(p) / "transformer" / WEIGHTS) for p in (init, plan.out))
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (tensor.ndim > 1), name


def test_a_checkpoint_of_dits_layout_is_trained_on(tmp_path):
    """Half precision, a learned variance, times embedded as in the release; the classes are some of its own."""
    weights = {k: t.half() for k, t in random_weights(channels=4, out=8, side=8, classes=12).items()}
    save_file(weights, tmp_path / "dit.safetensors")
    ids = [f"{i}" for i in range(12)]
    convert(tmp_path / "dit.safetensors", tmp_path / "dit", 64, ids, 4)
    record = json.loads((tmp_path / "dit" / "training.json").read_text())
    record.pop("vae_scaling_factor")
    (tmp_path / "dit" / "training.json").write_text(json.dumps(record))
    plan = planned(tmp_path, str(tmp_path / "dit"), "pretrain.trainable=vectors", "source.classes=[7,3]")
    assert plan.blank().transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift == 0
    assert plan.origin.labels(plan.listing.classes).tolist() == [7, 3] and plan.origin.null == 12
    made_of = written(plan, trained(plan, 2, tmp_path))
    spec = GeneratorSpec(str(plan.out))
    assert spec.learned_variance and spec.timestep_freq_shift == 0 and spec.class_ids == ids
    before, after = (load_file(p / "transformer" / WEIGHTS) for p in (tmp_path / "dit", plan.out))
    assert made_of["dtype"] == "float16" and {t.dtype for t in after.values()} == {torch.float16}
    assert all(torch.equal(before[n], after[n]) for n in before if before[n].ndim > 1)


def test_labels_are_those_of_the_checkpoint_where_data_has_other_numbers(tmp_path):
    plan = planned(tmp_path, checkpoint(tmp_path), "source.classes=[9,2,5]", "pretrain.label_dropout=0")
    latents = training_latents(np.zeros((6, *plan.latent_shape)), np.array([0, 1, 2, 2, 2, 2]))
    task, seen = plan.generator_task(latents, "cpu"), []
    table = task.net.transformer_blocks[0].norm1.emb.class_embedder.embedding_table
    table.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[0].tolist()))
    for step in range(8):
        task.loss(step)
    assert set(seen) == {9, 2, 5}


@pytest.mark.parametrize(("training", "overrides", "says"), [
    ({}, ["pretrain.class_map={twelve: '3'}"], "pretrain.class_map: 'twelve' is no class of the images"),
    ({}, ["pretrain.class_map={seven: 33}"], "pretrain.class_map: '33' is no class of .*; did you mean '3'"),
    ({"vae": "0" * 64}, [], "pretrain.init: .* was trained on latents of another VAE"),
    ({}, ["source.image_size=64"], "but the generator takes"),
    ({}, ["generator.objective=epsilon"], "generator.objective=epsilon does not fit the checkpoint: .* predicts flow"),
    ({"prediction": "score"}, [], "pretrain.init: .* predicts 'score'"),
], ids=["own class", "its class", "VAE", "size", "objective", "prediction"])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, training, overrides, says):
    with pytest.raises(BadInput, match=says) as e:
        planned(tmp_path, checkpoint(tmp_path, "flow", **training), *overrides)
    assert "\n" not in str(e.value) and not (tmp_path / "out").exists()
