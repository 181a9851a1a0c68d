"""Workers that train together: their gradients become the mean on all of them, bit for bit, and errors are shared."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from latents import generator_task
from torch import nn
from torch.multiprocessing.spawn import spawn

from raydistill.pretraining.group import ALONE, Group
from raydistill.pretraining.trainer import NonFiniteLoss, Trainer


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    group = Group(rank, 2)
    net = nn.Linear(3, 2)
    net.weight.grad = torch.full((2, 3), 1.0 + 2 * rank) / 3
    net.bias.grad = None if rank else torch.tensor([0.1, -0.1])
    loss = group.average(list(net.parameters()), torch.tensor(float(rank)))
    spoilt = nn.Linear(1, 1)
    spoilt.weight.grad = torch.tensor([[math.nan if rank else 1.0]])
    seen = {
        "loss": loss,
        "weight": net.weight.grad,
        "bias": net.bias.grad,
        "nan": (group.average(list(spoilt.parameters()), torch.tensor(1.0)), float(spoilt.weight.grad)),
        "total": group.total(torch.tensor([1.0, rank])),
        "errors": (group.first_error(None), group.first_error("of one" if rank else None)),
    }
    seen |= diverged(group)
    torch.save(seen, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
    # As Ray ends a worker, at once. A thread of gloo that drops a tensor while the interpreter closes asks for its lock
    # and aborts the process (seen once): https://github.com/pytorch/pytorch/pull/179291.
    os._exit(0)


def diverged(group: Group) -> dict[str, object]:
    """A good step together, then one that the second worker alone has no finite loss of."""
    trainer = Trainer(generator_task(), 6, 1e-3, 0.9, group)
    trainer.advance()
    weights = [p.detach().clone() for p in trainer.trained]
    if group.rank == 1:
        trainer.task.latents.values[:] = math.nan  # type: ignore[attr-defined]
    try:
        trainer.advance()
    except NonFiniteLoss as e:
        kept = all(torch.equal(a, b) for a, b in zip(weights, trainer.trained, strict=True))
        return {"stopped": str(e), "kept": kept, "weights": weights}
    return {"stopped": None}


@pytest.mark.timeout(300)
def test_two_workers_get_the_same_mean_and_the_same_bad_news(tmp_path: Path):
    spawn(worker, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one["loss"] == two["loss"] == 0.5
    assert torch.equal(one["weight"], two["weight"]) and torch.allclose(one["weight"], torch.full((2, 3), 2 / 3))
    assert torch.equal(one["bias"], two["bias"]) and torch.allclose(one["bias"], torch.tensor([0.05, -0.05]))
    assert one["nan"][0] == two["nan"][0] == 1.0 and math.isnan(one["nan"][1]) and math.isnan(two["nan"][1])
    assert one["total"].tolist() == two["total"].tolist() == [2.0, 1.0]
    assert one["errors"] == two["errors"] == (None, "of one")
    assert one["stopped"] == two["stopped"] == "loss nan, gradient norm nan at step 2 of 6"
    assert one["kept"] and two["kept"]
    assert all(torch.equal(a, b) for a, b in zip(one["weights"], two["weights"], strict=True))


def test_shares_make_up_the_batch_in_order():
    rows = list(range(12))
    assert [x for rank in range(3) for x in rows[Group(rank, 3).share(12)]] == rows
    assert ALONE.share(5) == slice(0, 5)


def test_the_mean_over_shares_is_the_loss_of_the_batch():
    for objective in ("epsilon", "flow"):
        task = generator_task(f"generator.objective={objective}", "pretrain.batch=6")
        whole = task.loss(3).item()
        parts = [task.loss(3, Group(rank, 3)).item() for rank in range(3)]
        assert len(set(parts)) == 3 and sum(parts) / 3 == pytest.approx(whole, rel=1e-5)
