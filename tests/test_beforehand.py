"""Workers that a private cluster can never place, and devices that are not there: refused before Ray starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from running import write_digits

from raydistill import cli
from raydistill import config as configuration
from raydistill.distributed import executors
from raydistill.distributed.pretrain.job import check as check_training
from raydistill.distributed.resources import Reservation, Room, lack_of_trainers, local_room
from raydistill.errors import BadInput
from raydistill.pipeline.beforehand import check, first_unfinished, reservations
from raydistill.pipeline.preflight import prepare
from raydistill.pretraining.plan import make_plan
from raydistill.stages import runner

Refused = Callable[..., str]
SMALL = ["ipc=1", "sampler.steps=2", "sampler.cfg_scale=1", "evaluate.baselines=[]", "guidance.stop=0"]


@pytest.fixture(autouse=True)
def four_cpus_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class TestReservation:
    @pytest.mark.parametrize(
        ("cpus", "gpus", "num_cpus", "num_gpus", "fits"),
        [
            (4, 0, 0.5, 0, 6),
            (4, 0, 1, 0, 3),
            (4, 0, 4, 0, 0),
            (4, 2, 0.5, 1, 2),
            (16, 2, 0.5, 0.25, 8),
            (64, 2, 0.5, 0.1, 20),
            (4, 2, 0.5, 0.6, 2),  # a fraction lies on one GPU: not three
            (4, 8, 0.5, 2, 4),
            (4, 0, 0.5, 0.5, 0),
            (1, 1, 0, 1, 1),
        ],
    )
    def test_it_is_known_how_many_fit(
        self, cpus: float, gpus: float, num_cpus: float, num_gpus: float, fits: int
    ) -> None:
        room = Room(cpus, gpus)
        assert Reservation("sample", 0, num_cpus, num_gpus).fits(room) == fits
        for workers in range(1, 25):
            assert (Reservation("sample", workers, num_cpus, num_gpus).lack(room) is None) == (workers <= fits)

    def test_a_private_cluster_has_four_cpus_at_least_or_what_is_asked_for(self) -> None:
        ray = configuration.load().ray
        assert local_room(ray) == Room(4, 0)
        assert local_room(ray.model_copy(update={"num_cpus": 2})) == Room(2, 0)

    @pytest.mark.ray
    def test_it_is_what_ray_is_started_with(self) -> None:
        """In a process of its own; the GPUs are made up."""
        code = (
            "import torch; torch.cuda.device_count = lambda: 3\n"
            "import ray\nfrom raydistill.config import load\nfrom raydistill.distributed import resources, runtime\n"
            "c = load().ray.model_copy(update={'num_cpus': 5}); runtime.ensure_ray(c); have = ray.cluster_resources()\n"
            "assert resources.local_room(c) == resources.Room(have['CPU'], have['GPU']) == resources.Room(5, 3), have\n"
        )
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]


class TestPools:
    @pytest.mark.parametrize(
        ("overrides", "says", "remedy"),
        [
            (["encode.num_gpus=1"], "encode.num_gpus=1 need more than the cluster's 0 GPUs; set", "encode.num_gpus=0"),
            (["sample.num_gpus=0.5"], "sample.num_gpus=0.5 need more", "sample.num_gpus=0"),
            (["sample.num_gpus=1", "sample.device=cpu"], "sample.num_gpus=1 need more", "sample.num_gpus=0"),
            (["evaluate.num_gpus=1"], "evaluate.num_gpus=1 need more", "evaluate.num_gpus=0"),
            (["embed.num_gpus=1"], "embed.num_gpus=1 need more", "embed.num_gpus=0"),
            (["encode.num_cpus=4"], "encode.num_cpus=4 are more than the cluster's 4 CPUs", "ray.num_cpus=5"),
            (["cluster.num_cpus=5"], "cluster.num_cpus=5 are more than the cluster's 4 CPUs; ", "ray.num_cpus=5"),
            (["sample.actors=7"], "sample.actors=7 x sample.num_cpus=0.5 are more", "ray.num_cpus=5"),
            (["sample.actors=7"], "sample.actors=7 x sample.num_cpus=0.5 are more", "sample.actors=6"),
            (["evaluate.workers=4"], "evaluate.workers=4 x evaluate.num_cpus=1 are more", "evaluate.num_cpus=0.75"),
            (["ray.num_cpus=1"], "of which 1 is left for other tasks", "ray.num_cpus=2"),
            (["encode.device=cuda"], "encode: device=cuda was asked for, but torch", "encode.device=cpu"),
            (["sample.device=cuda"], "sample: device=cuda was asked for, but torch", "sample.device=cpu"),
            (["embed.device=cuda"], "embed: device=cuda was asked for, but torch", "embed.device=cpu"),
            (["evaluate.device=cuda"], "evaluate: device=cuda was asked for, but torch", "evaluate.device=cpu"),
        ],
        ids=str,
    )
    def test_what_can_never_be_placed_is_refused_with_a_remedy_that_works(
        self, refused: Refused, tmp_path: Path, overrides: list[str], says: str, remedy: str
    ) -> None:
        line = refused("distill", *SMALL, *overrides)
        key, _, value = remedy.partition("=")
        assert says in line and key.rpartition(".")[2] in line.partition("; ")[2], line
        if key == "ray.num_cpus" and overrides != ["ray.num_cpus=1"]:
            assert f"raise ray.num_cpus to {value}" in line
        mended = [*SMALL, *overrides, remedy, f"run_dir={tmp_path / 'new'}"]
        check(prepare(configuration.load("quickstart", mended)), "report")

    @pytest.mark.parametrize("verb", ["encode", "cluster", "plan", "sample", "distill"])
    def test_a_verb_asks_only_for_the_stages_that_it_has(self, tmp_path: Path, verb: str) -> None:
        until = cli.VERBS[verb].until
        every = ["encode", "cluster", "sample", "measure", "evaluate"]
        count = {"encode": 1, "cluster": 2, "plan": 2, "sample": 3, "report": 5}[until]
        prepared = prepare(configuration.load("quickstart", [*SMALL, f"run_dir={tmp_path / 'run'}"]))
        assert [stage for stage, _ in reservations(prepared, until)] == every[:count]

    def test_a_cluster_that_is_joined_may_grow(self, tmp_path: Path) -> None:
        overrides = ["ray.address=10.0.0.1:6379", "sample.num_gpus=1", f"run_dir={tmp_path / 'run'}"]
        check(prepare(configuration.load("quickstart", overrides)), "report")

    def test_a_seen_gpu_is_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        overrides = ["sample.num_gpus=1", f"run_dir={tmp_path / 'run'}"]
        check(prepare(configuration.load("quickstart", overrides)), "report")
        two = prepare(configuration.load("quickstart", [*overrides, "sample.actors=2"]))
        with pytest.raises(BadInput, match=r"sample.actors=2 x sample.num_gpus=1 need more than the cluster's 1 GPUs"):
            check(two, "report")


def test_what_is_finished_needs_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A run that a machine with GPUs has begun: continued without one, it is refused only for what is left."""
    monkeypatch.setattr(executors, "on_ray", lambda config, keep: runner.serial)
    images = write_digits(tmp_path / "images", train=2)
    overrides = [*SMALL, "source.kind=imagefolder", f"source.path={images}", f"run_dir={tmp_path / 'run'}"]

    def code(verb: str, *more: str) -> int:
        return cli.main([verb, *overrides, *more])

    assert code("cluster") == 0
    before = sorted(tmp_path.rglob("*"))
    assert first_unfinished(prepare(configuration.load("quickstart", overrides)), "sample") == "plan"
    assert code("cluster", "encode.num_gpus=1") == 0, "latents have no GPU in their name"
    assert code("sample", "sample.num_gpus=1") == 2
    assert "sample.num_gpus=1 need more" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "run" / "logs")
    assert [f for f in before if "logs" not in f.parts] == sorted(tmp_path.rglob("*"))
    assert code("sample", "encode.num_gpus=1", "sample.device=cpu") == 0
    assert first_unfinished(prepare(configuration.load("quickstart", overrides)), "sample") is None
    assert code("sample", "sample.num_gpus=1", "sample.device=cpu") == 0
    assert code("distill", "sample.num_gpus=1", "sample.device=cpu", "embed.num_gpus=1") == 2
    assert "embed.num_gpus=1 need more" in capsys.readouterr().err


class TestPretrain:
    def test_workers_and_the_pool_of_encode_are_checked(self, tmp_path: Path) -> None:
        def trained(*overrides: str) -> None:
            check_training(make_plan(configuration.load("quickstart", [f"pretrain.out={tmp_path / 'o'}", *overrides])))

        with pytest.raises(BadInput, match=r"pretrain.workers=8 is more than the cluster's 4 CPUs; lower it, or raise"):
            trained("pretrain.workers=8")
        with pytest.raises(BadInput, match=r"encode.num_gpus=1 need more"):
            trained("encode.num_gpus=1")
        trained("pretrain.workers=8", "ray.num_cpus=8")
        trained("encode.num_gpus=1", "pretrain.target=vae")
        if not torch.cuda.is_available():
            with pytest.raises(BadInput, match=r"cluster's 0 GPUs; set pretrain\.num_gpus=0"):
                trained("pretrain.num_gpus=1")
            trained("pretrain.num_gpus=0")
        assert not (tmp_path / "o").exists()

    def test_each_worker_has_a_gpu_if_there_are_any(self) -> None:
        assert lack_of_trainers(2, Room(4, 2)) is None
        assert "pretrain.workers=3 is more than the cluster's 2 GPUs; lower it" in str(lack_of_trainers(3, Room(4, 2)))

    def test_one_that_is_asked_for_is_waited_for_or_refused(self) -> None:
        """A cluster that grows from none has none when a training begins: null would take CPUs."""
        assert (
            lack_of_trainers(2, Room(4, 2), num_gpus=0) is None and lack_of_trainers(3, Room(4, 2), num_gpus=0) is None
        )
        line = "pretrain.workers=1 is more than the cluster's 0 GPUs; set pretrain.num_gpus=0"
        assert lack_of_trainers(1, Room(4, 0), num_gpus=1) == line
        assert lack_of_trainers(1, Room(0, 0), local=False) == "pretrain.workers=1 is more than the cluster's 0 CPUs"
