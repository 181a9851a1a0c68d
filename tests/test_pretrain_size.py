"""A network too large to train is refused from its sizes: neither weights nor images are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydistill.config import load
from raydistill.errors import BadInput
from raydistill.models.checkpoint import packaged
from raydistill.pretraining import size
from raydistill.pretraining.plan import Plan, make_plan
from raydistill.pretraining.trainer import Ema

Refused = Callable[..., str]


def plan(tmp_path: Path, *overrides: str) -> Plan:
    return make_plan(load("quickstart", [f"pretrain.out={tmp_path / 'out'}", *overrides]))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["pretrain.layers=64", "pretrain.heads=64", "pretrain.head_dim=256"], "lower pretrain.layers=64, "),
        (["pretrain.target=vae", "pretrain.vae_channels=[16,65536]"], "lower pretrain.vae_channels=[16, 65536]"),
    ],
)
def test_a_network_that_cannot_fit_is_refused_with_its_size(
    refused: Refused, tmp_path: Path, overrides: list[str], says: str
) -> None:
    line = refused("pretrain", *overrides, f"pretrain.out={tmp_path / 'run' / 'out'}")
    assert says in line and "million weights take" in line and "this machine has" in line


def test_what_it_takes_is_what_training_holds(tmp_path: Path) -> None:
    small = plan(tmp_path, "pretrain.layers=2")
    net = small.blank()
    ema = Ema(net, 0.9)
    optimizer = torch.optim.AdamW(net.parameters())
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moments = [t for s in optimizer.state.values() for t in s.values() if t.ndim]
    held = [*net.parameters(), *ema.net.parameters(), *(p.grad for p in net.parameters()), *moments]
    assert size.of(small).network == sum(t.numel() * t.element_size() for t in held if t is not None)
    assert size.of(small).data == len(small.listing) * 2 * 4 * 8 * 8


def test_workers_share_a_machine_and_have_a_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = plan(tmp_path, "pretrain.workers=2")
    need = size.of(two).network + size.of(two).data
    monkeypatch.setattr(size, "memory", lambda: 2 * need)
    size.check(two, None)
    monkeypatch.setattr(size, "memory", lambda: 2 * need - 1)
    with pytest.raises(BadInput, match=r"for each of 2 workers; this machine has .*, or lower pretrain.workers$"):
        size.check(two, None)
    size.check(plan(tmp_path, "pretrain.workers=1"), None)
    size.check(two, size.of(two).network)
    with pytest.raises(BadInput, match="its GPU has"):
        size.check(two, size.of(two).network - 1)


def test_a_checkpoint_to_fine_tune_is_counted_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = f"pretrain.init={packaged('generator')}"
    every, vectors = plan(tmp_path, init), plan(tmp_path, init, "pretrain.trainable=vectors")
    count = sum(p.numel() for p in every.blank().parameters())
    assert size.of(every).weights == size.of(every).trained == size.of(vectors).weights == count
    assert size.of(vectors).trained == sum(p.numel() for p in vectors.blank().parameters() if p.ndim == 1) < count
    monkeypatch.setattr(size, "memory", lambda: size.of(vectors).network + size.of(vectors).data)
    size.check(vectors, None)
    with pytest.raises(BadInput, match=r"give a smaller pretrain.init, or set pretrain.trainable=vectors"):
        size.check(every, None)


def test_many_images_are_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = plan(tmp_path, "pretrain.target=vae", "pretrain.vae_channels=[8]")
    monkeypatch.setattr(size, "memory", lambda: size.of(vae).data)
    with pytest.raises(BadInput, match=r"take fewer images with source.classes, or smaller ones"):
        size.check(vae, None)
