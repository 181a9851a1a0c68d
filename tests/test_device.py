"""Where a network runs: a GPU that was reserved, or the CPU because that was asked for."""

from __future__ import annotations

import pytest

from raydistill.errors import BadInput
from raydistill.models.device import on_cuda


@pytest.mark.parametrize(("device", "num_gpus"), [("auto", 0.5), ("cuda", 0.0), ("cuda", 1.0)])
def test_a_gpu_that_torch_does_not_see_is_no_silent_cpu(
    device: str, num_gpus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        BadInput,
        match=r"torch .* sees no CUDA device on .*; install .* such as sample.device=cpu",
    ):
        on_cuda(device, num_gpus)


@pytest.mark.parametrize("there", [False, True])
def test_the_cpu_is_used_where_no_gpu_was_reserved_or_it_is_asked_for(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert not on_cuda("auto", 0) and not on_cuda("cpu", 0) and not on_cuda("cpu", 1)
