"""What every registered student must keep. A new file is picked up by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raydistill import registry
from raydistill.errors import BadInput

pytestmark = pytest.mark.parametrize("name", registry.names("student"))


def make(name: str, classes: int = 5, size: int = 32, width: int = 8, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return registry.get("student", name)(classes, size, width)


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("classes", [2, 7])
def test_logits_for_every_class(name: str, size: int, classes: int) -> None:
    net = make(name, classes, size)
    for count in (1, 3):
        logits = net(torch.randn(count, 3, size, size))
        assert logits.shape == (count, classes) and logits.dtype == torch.float32 and torch.isfinite(logits).all()


def test_the_seed_decides_the_start(name: str) -> None:
    one, same, other = (make(name, seed=s).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_size_that_does_not_fit_is_refused_in_one_line(name: str, size: int) -> None:
    with pytest.raises(BadInput, match=f"image_size={size}") as caught:
        make(name, size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", range(8, 140, 9))
def test_any_other_size_works_or_is_refused(name: str, size: int) -> None:
    try:
        net = make(name, size=size)
    except BadInput as e:
        assert f"image_size={size}" in str(e)
    else:
        assert net(torch.zeros(2, 3, size, size)).shape == (2, 5)


def test_it_can_be_built_without_memory(name: str) -> None:
    """The check before a run builds each student on the meta device."""
    with torch.device("meta"):
        net = make(name)
    assert all(p.is_meta for p in net.parameters())


def test_every_weight_is_trained(name: str) -> None:
    net = make(name)
    nn.functional.cross_entropy(net(torch.randn(6, 3, 32, 32)), torch.arange(6) % 5).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert any(p.grad.abs().max() > 0 for p in net.parameters())


def test_images_of_a_batch_are_judged_on_their_own_when_testing(name: str) -> None:
    net = make(name).eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        together, alone = net(x), torch.cat([net(x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
