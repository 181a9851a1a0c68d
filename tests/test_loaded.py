"""Networks stay loaded: a process that goes from method to method and stage to stage loads each of them once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import write_student
from tiny_run import TinyRun, config

from raydistill.models import classifier, denoiser, loaded, vae
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.device import Placement
from raydistill.models.vae import VaeSpec

GENERATING = ("dit", "mgd3", "mgd3_ddim", "manifoldgd", "pgfm")
UPSTREAM = ("encode", "group", "cluster", "embed")
CPU = Placement(torch.device("cpu"), torch.float32, "cpu/float32")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often weights were read, by kind, from a process that holds none."""
    counted: Counter[str] = Counter()

    def counting(module: Any, name: str, kind: str) -> None:
        load = getattr(module, name)

        def count(*args: Any) -> Any:
            counted[kind] += 1
            return load(*args)

        monkeypatch.setattr(module, name, count)

    counting(denoiser, "load_network", "generator")
    counting(vae, "load_network", "vae")
    counting(classifier, "load_file", "classifier")
    monkeypatch.setattr(loaded, "_kept", {})
    return counted


def test_five_generating_methods_load_the_generator_and_the_vae_once(tmp_path: Path, loads: Counter[str]) -> None:
    tiny = TinyRun(tmp_path / "run")
    tiny.config = config(manifold={"nearest": 4})
    stages = [stage for method in GENERATING for stage in (f"plan {method}", f"sample {method}", f"measure {method}")]
    sealed = tiny.finish([*UPSTREAM, *stages])
    assert len({sealed[f"sample {method}"].digest for method in GENERATING}) == len(GENERATING)
    assert loads == {"generator": 1, "vae": 1, "classifier": 1}


def test_methods_that_share_a_network_keep_their_own_guidance_scale(loads: Counter[str]) -> None:
    spec = GeneratorSpec(None)
    one, four = loaded.generator(spec, CPU, 1.0, "all"), loaded.generator(spec, CPU, 4.0, "first3")
    assert one.net is four.net and loads["generator"] == 1
    assert (one.cfg_scale, one.calls_per_step, four.cfg_scale, four.calls_per_step) == (1.0, 1, 4.0, 2)


def test_another_precision_or_thread_count_is_another_network(loads: Counter[str]) -> None:
    half = Placement(torch.device("cpu"), torch.bfloat16, "cpu/bfloat16")
    assert loaded.vae(VaeSpec(None), CPU) is loaded.vae(VaeSpec(None), CPU)
    assert loaded.vae(VaeSpec(None), half).net.dtype == torch.bfloat16
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        loaded.vae(VaeSpec(None), CPU)
    finally:
        torch.set_num_threads(threads)
    assert loads == {"vae": 3}


def test_weights_that_change_on_disk_are_loaded_again(tmp_path: Path, loads: Counter[str]) -> None:
    first = loaded.classifier(ClassifierSpec(write_student(tmp_path / "one")), CPU)
    again = loaded.classifier(ClassifierSpec(write_student(tmp_path / "one", mean=[0, 0, 0])), CPU)
    assert first is not again and loads == {"classifier": 2}


def test_a_process_holds_a_few_and_drops_the_one_that_was_used_longest_ago(tmp_path: Path, loads: Counter[str]) -> None:
    specs = [ClassifierSpec(write_student(tmp_path / str(i))) for i in range(loaded.MOST + 1)]
    for spec in specs[: loaded.MOST]:
        loaded.classifier(spec, CPU)
    for spec in (specs[0], specs[-1], specs[0]):
        loaded.classifier(spec, CPU)
    assert (len(loaded._kept), loads["classifier"]) == (loaded.MOST, loaded.MOST + 1)
    loaded.classifier(specs[1], CPU)
    assert loads["classifier"] == loaded.MOST + 2
