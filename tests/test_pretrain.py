"""Pretraining: losses in closed form, exact resume, saved directories, and the models that ship in the package."""

from __future__ import annotations

import math
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from latents import generator_task, tiny
from torch import nn

from raydistill.config import load
from raydistill.distributed.pretrain.restore import restore
from raydistill.errors import BadInput, StageFailed
from raydistill.models.checkpoint import packaged
from raydistill.pretraining import losses
from raydistill.pretraining.output import command
from raydistill.pretraining.plan import make_plan
from raydistill.pretraining.tasks import VaeTask
from raydistill.pretraining.trainer import Ema, NonFiniteLoss, Trainer, learning_rate


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def vae_task() -> VaeTask:
    pixels = torch.randint(0, 256, (10, 8, 8, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    return VaeTask(tiny().pretrain, 0, pixels)


# ---- losses --------------------------------------------------------------------------------------------------------


def test_kl_between_equal_gaussians_is_zero_and_between_shifted_ones_half_the_squared_shift():
    mean, log_var = torch.tensor([0.3, -2.0]), torch.tensor([0.7, -1.0])
    assert torch.allclose(losses.gaussian_kl(mean, log_var, mean, log_var), torch.zeros(2), atol=1e-7)
    assert losses.gaussian_kl(torch.tensor(3.0), torch.tensor(0.0)).item() == pytest.approx(4.5)


def test_vae_loss_is_zero_for_a_perfect_copy_and_a_standard_normal_posterior():
    x, zero = torch.rand(2, 3, 4, 4), torch.zeros(2, 2, 2, 2)
    assert losses.vae_loss(x, x, zero, zero, 1.0).item() == 0.0
    assert losses.vae_loss(x, x + 0.5, zero, zero, 1.0).item() == pytest.approx(0.75)


def linear() -> losses.NoisePath:
    """Of DiT's betas."""
    return losses.NoisePath.of(np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000)))


def test_learned_variance_ends_at_beta_tilde_and_beta():
    path = linear()
    betas = np.linspace(1e-4, 2e-2, 1000)
    bar = np.cumprod(1 - betas)
    t = torch.tensor([1, 500, 999])
    one = torch.ones(3, 1, 1, 1)
    tilde = [betas[i] * (1 - bar[i - 1]) / (1 - bar[i]) for i in t.tolist()]
    assert np.allclose(path.log_variance(one, t).flatten().exp(), betas[t], rtol=1e-5)
    assert np.allclose(path.log_variance(-one, t).flatten().exp(), tilde, rtol=1e-5)
    assert torch.isfinite(path.log_variance(-one[:1], torch.tensor([0]))).all()


def test_the_noise_path_agrees_with_the_schedule_of_the_samplers():
    from diffusers import DDPMScheduler

    path = linear()
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=2e-2, beta_schedule="linear")
    assert np.allclose(path.signal.square(), scheduler.alphas_cumprod, rtol=1e-4)
    assert np.allclose(path.signal.square() + path.sigma.square(), 1.0, atol=1e-6)


def test_the_variational_term_is_the_closed_form():
    path, t = linear(), torch.tensor([300])
    noise, eps, fraction = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.2), torch.full((1, 1, 1, 1), 0.5)
    betas = np.linspace(1e-4, 2e-2, 1000)
    bar = np.cumprod(1 - betas)
    b, now, before = betas[300], bar[300], bar[299]
    tilde = b * (1 - before) / (1 - now)
    gap = b / math.sqrt((1 - now) * (1 - b)) * 0.2  # the mean of x_{t-1} written in eps (Ho et al. 2020, eq. 11)
    variance = b**0.75 * tilde**0.25
    kl = 0.5 * (math.log(variance / tilde) + (tilde + gap**2) / variance - 1)
    assert losses.vlb_term(path, eps, fraction, noise, t).item() == pytest.approx(kl / math.log(2), rel=1e-3)


def test_the_variational_term_trains_the_variance_only():
    path, t, noise = linear(), torch.tensor([0, 400]), torch.randn(2, 1, 2, 2)
    eps_hat, fraction = torch.randn(2, 2, 1, 2, 2, requires_grad=True).unbind()
    eps_hat.retain_grad(), fraction.retain_grad()
    losses.variance_loss(path, eps_hat, fraction, noise, t).sum().backward()
    assert eps_hat.grad is None and (fraction.grad != 0).all()


# ---- the loop ------------------------------------------------------------------------------------------------------


def test_ema_of_a_constant_is_the_constant_and_otherwise_the_recurrence():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    ema = Ema(net, 0.5)
    ema.update(net)
    assert ema.net.weight.item() == 1.0
    nn.init.constant_(net.weight, 3.0)
    expected = 1.0
    for n in range(1, 8):
        ema.update(net)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * 3.0
        assert ema.net.weight.item() == pytest.approx(expected)


def test_learning_rate_warms_up_and_ends_at_a_twentieth():
    rates = [learning_rate(s, 1000, 1.0) for s in range(1000)]
    assert rates[0] == pytest.approx(0.05) and max(rates) == 1.0 and rates[-1] == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("make", [generator_task, vae_task])
def test_a_resumed_training_equals_an_undisturbed_one_bit_for_bit(make, tmp_path):
    straight = Trainer(make(), 6, 1e-3, 0.9)
    while straight.step < 6:
        straight.advance()
    first = Trainer(make(), 6, 1e-3, 0.9)
    for _ in range(3):
        first.advance()
    first.save(tmp_path / "state.pt")
    first.advance()  # lost work
    torch.manual_seed(99)
    second = Trainer(make(), 6, 1e-3, 0.9)
    second.load(tmp_path / "state.pt")
    while second.step < 6:
        second.advance()
    assert second.losses == straight.losses
    for a, b in zip(straight.ema.net.parameters(), second.ema.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_is_another_training():
    assert generator_task(seed=0).loss(0).item() != generator_task(seed=1).loss(0).item()


def test_building_and_training_leave_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    generator_task().loss(0)
    assert torch.equal(torch.rand(1), expected)


def test_labels_are_dropped_once_and_only_as_asked():
    def labels_seen(dropout: float) -> torch.Tensor:
        task = generator_task(f"pretrain.label_dropout={dropout}", "pretrain.batch=400")
        seen = []
        task.net.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0])
        )
        task.loss(0)
        return seen[0]

    assert (labels_seen(0.0) != 3).all()
    assert (labels_seen(1.0) == 3).all()
    assert 0.1 < (labels_seen(0.2) == 3).float().mean() < 0.3


def test_a_non_finite_loss_changes_no_weight():
    task = generator_task()
    trainer = Trainer(task, 6, 1e-3, 0.9)
    trainer.advance()
    before = [p.clone() for p in task.net.parameters()]
    task.latents.values[:] = math.nan
    with pytest.raises(NonFiniteLoss, match="step 2 of 6"):
        trainer.advance()
    assert trainer.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, task.net.parameters(), strict=True))


def test_a_truncated_or_foreign_checkpoint_is_named(tmp_path):
    trainer = Trainer(generator_task(), 6, 1e-3, 0.9)
    trainer.save(tmp_path / "state.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:500])
    with pytest.raises(StageFailed, match=r"cut\.pt cannot be read"):
        trainer.load(tmp_path / "cut.pt")
    with pytest.raises(StageFailed, match="another training"):
        Trainer(vae_task(), 6, 1e-3, 0.9).load(tmp_path / "state.pt")


def test_it_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path):
    trainer = Trainer(generator_task(), 6, 1e-3, 0.9)
    folders = [tmp_path / f"checkpoint_2026-01-0{day}" for day in (1, 2, 3)]
    for folder in folders:
        folder.mkdir()
        trainer.advance()
        trainer.save(folder / "state.pt")
    again = Trainer(generator_task(), 6, 1e-3, 0.9)
    assert restore(again, folders[-1]) == "" and again.step == 3
    for folder, damage in ((folders[2], bytes(500)), (folders[1], b"")):
        (folder / "state.pt").write_bytes(damage)
    assert re.fullmatch(r"pretrain: checkpoint .*03/state.pt .*; another .* is whole", restore(again, folders[-1]))
    assert again.step == 1
    (folders[0] / "state.pt").unlink()
    with pytest.raises(StageFailed, match=f"remove {tmp_path}: the training begins anew"):
        restore(again, folders[-1])


# ---- plan and output -----------------------------------------------------------------------------------------------


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path):
    out = tmp_path / "model"
    cases = {
        "pretrain.out is not set": [],
        "is a URI": ["pretrain.out=s3://bucket/model"],
        "multiple of 8": [f"pretrain.out={out}", "pretrain.target=vae", "pretrain.vae_channels=[12]"],
        "not a multiple of 4": [
            f"pretrain.out={out}",
            "pretrain.target=vae",
            "source.image_size=30",
            "pretrain.vae_channels=[8,8,8]",
        ],
        "does not divide": [f"pretrain.out={out}", "pretrain.patch=3"],
        "multiple of 4": [f"pretrain.out={out}", "pretrain.heads=1", "pretrain.head_dim=6"],
        "batch=4 is not a multiple of pretrain.workers=3": [f"pretrain.out={out}", "pretrain.workers=3"],
        "goes with pretrain.init": [f"pretrain.out={out}", "pretrain.trainable=vectors"],
        "only generators are fine-tuned": [f"pretrain.out={out}", "pretrain.target=vae", "pretrain.init=here"],
    }
    for message, overrides in cases.items():
        with pytest.raises(BadInput, match=message):
            make_plan(tiny(*overrides))
    (out / "mine").mkdir(parents=True)
    with pytest.raises(BadInput, match="holds 'mine'"):
        make_plan(tiny(f"pretrain.out={out}")).finished()
    assert [p.name for p in out.iterdir()] == ["mine"]


def test_the_fingerprint_follows_what_the_weights_depend_on(tmp_path):
    def of(*overrides: str) -> str:
        return make_plan(tiny(f"pretrain.out={tmp_path / 'a'}", *overrides)).fingerprint

    base, unread = of(), ("pretrain.checkpoint_every=3", "pretrain.validate_every=1", "ipc=7", "pretrain.kl_weight=0.5")
    assert of(*unread, "encode.chunk=7", "group.buckets=3", f"pretrain.out={tmp_path}/b") == base
    read = ("seed=1", "pretrain.steps=7", "pretrain.layers=2", "source.classes=[0,1]", "pretrain.workers=2",
            "generator.objective=flow", "generator.objective=v", "pretrain.time=logit_normal",
            "pretrain.dtype=bfloat16", "encode.batch=7")  # fmt: skip
    assert len({base, *map(of, read)}) == 1 + len(read)
    assert of("generator.objective=epsilon") == base


def test_workers_are_told_absolute_paths_and_the_record_what_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(packaged("vae"), "models/vae")
    shutil.copytree(packaged("generator"), "models/generator")
    plan = make_plan(tiny("pretrain.out=out", "vae.path=models/vae", "pretrain.init=models/generator"))
    assert plan.vae.path.is_absolute() and plan.origin.spec.path.is_absolute()
    words = command(plan.as_given)
    assert "vae.path=models/vae" in words and "pretrain.init=models/generator" in words


def test_the_command_repeats_the_training():
    config = tiny("pretrain.out=my model's place", "source.classes=[0,1]", "ipc=3")
    assert command(config).startswith("python jobs/pretrain.py ")
    _, _, *words = shlex.split(command(config))  # as a shell reads it
    assert f"pretrain.out={config.pretrain.out}" in words and "pretrain.steps=6" in words
    assert not any(word.startswith("ipc") for word in words)
    assert command(load(overrides=words)) == command(config)


# ---- what ships ----------------------------------------------------------------------------------------------------
