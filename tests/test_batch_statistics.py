"""Students with BatchNorm: statistics of batches in training, running ones in evaluation, and a batch of one image."""

from __future__ import annotations

import pytest
import torch
from test_evaluation import CPU, images, recipe
from torch import nn

from raydistill import registry
from raydistill.evaluation.batch_statistics import batch_norms, spare_single_values
from raydistill.evaluation.score import examine
from raydistill.evaluation.train import Student, train_student

STUDENTS = [n for n in registry.names("student") if n.endswith("_bn")]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return registry.get("student", name)(4, 32, 16)


@pytest.mark.parametrize("name", STUDENTS)
def test_images_see_each_other_in_training_and_not_in_evaluation(name: str) -> None:
    net, x = build(name), torch.randn(3, 3, 32, 32)
    others = torch.cat([x[:1], 5 * torch.randn(2, 3, 32, 32)])
    assert not torch.allclose(net(x)[0], net(others)[0], atol=1e-3)
    net.eval()
    torch.testing.assert_close(net(x)[0], net(others)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_convolution_is_normalised_and_keeps_statistics(name: str) -> None:
    net = build(name)
    assert len(batch_norms(net)) == sum(isinstance(m, nn.Conv2d) for m in net.modules())
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    net(torch.randn(5, 3, 32, 32))
    assert before and all(not torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_a_test_leaves_the_statistics_and_goes_by_them() -> None:
    """The answers are those of one image at a time."""
    data = images(33, contrast=20.0)
    _, net = train_student(Student("convnet_bn", 8, 2, 0), recipe(visits=160), data, images(8, 2, 9), CPU)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    together = examine(net, data, 2)
    alone = [examine(net, data.take(torch.tensor([i])), 2).accuracy for i in range(len(data))]
    assert together.accuracy == sum(alone) / len(alone)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items()) and net.training


def test_a_last_batch_of_one_image_is_trained_on() -> None:
    """Seventeen images in batches of sixteen: one a batch of its own, whose maps still hold statistics."""
    score, net = train_student(
        Student("convnet_bn", 8, 2, 0), recipe(visits=34, evaluations=1), images(17), images(8, 2, 9), CPU
    )
    assert score.curve[-1][0] == 34
    assert {int(m.num_batches_tracked) for m in batch_norms(net)} == {4}  # type: ignore[arg-type]


class Pools(nn.Module):
    """Its second BatchNorm sees one value a channel and image."""

    def __init__(self, classes: int, image_size: int, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.after(self.before(x).mean((2, 3), keepdim=True)).flatten(1))


def test_where_one_image_has_no_statistics_the_running_ones_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        Pools(2, 8, 8)(torch.randn(1, 3, 8, 8))
    monkeypatch.setitem(registry._entries["student"], "pools", Pools)
    _, net = train_student(
        Student("pools", 8, 2, 0), recipe(visits=34, evaluations=1), images(17), images(8, 2, 9), CPU
    )
    assert (int(net.before.num_batches_tracked), int(net.after.num_batches_tracked)) == (4, 2)
    assert net.after.training, "the next batch is normalised by itself again"


def test_sparing_changes_no_other_batch() -> None:
    x, plain, spared = torch.randn(4, 3, 8, 8), Pools(2, 8, 8), Pools(2, 8, 8)
    spared.load_state_dict(plain.state_dict())
    spare_single_values(spared)
    assert torch.equal(plain(x), spared(x))
    assert all(torch.equal(v, spared.state_dict()[k]) for k, v in plain.state_dict().items())
