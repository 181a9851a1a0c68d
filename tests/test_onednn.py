"""Linear layers by oneDNN: the same function as PyTorch's, bit for bit repeatable."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.activations import GELU
from torch import nn

from raydistill.models.onednn import OneDnnLinear, linear_by_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def layers() -> nn.Sequential:
    return nn.Sequential(
        GELU(24, 96, approximate="tanh"), nn.Linear(96, 24), GELU(24, 40), nn.Sequential(nn.Linear(40, 3, bias=False))
    )


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(24,), (1, 24), (5, 64, 24), (40, 7, 24)])
def test_the_same_function_within_rounding(shape: tuple[int, ...]) -> None:
    net, x = layers(), torch.randn(shape)
    before = net(x)
    linear_by_onednn(net)
    assert not [m for m in net.modules() if isinstance(m, nn.Linear)]
    torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_bytes_depend_neither_on_the_place_in_memory_nor_on_the_neighbours() -> None:
    layer = OneDnnLinear(nn.Linear(192, 768), "gelu", "tanh")
    x = torch.randn(40, 64, 192)
    once = layer(x)
    room = torch.empty(x.numel() + 3)
    for start in (1, 2, 3):
        elsewhere = room[start : start + x.numel()].view_as(x)
        elsewhere.copy_(x)
        assert torch.equal(layer(elsewhere), once)
    other = torch.randn_like(x)
    other[3] = x[3]
    assert torch.equal(layer(other)[3], once[3])


@torch.inference_mode()
def test_the_network_is_its_own() -> None:
    """Weights are taken over, not shared: what is done to the old layer afterwards does not reach the new one."""
    old = nn.Linear(16, 16)
    new, x = OneDnnLinear(old), torch.randn(2, 16)
    before = new(x)
    old.weight.data.zero_()
    assert torch.equal(new(x), before)
