"""The benchmarks: each runs in a tiny form, and what they compute from their clocks is right. No time is asserted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import chaos
import cluster_speed
import encode_speed
import gpu
import kmeans_speed
import layout_speed
import learnability_lead
import learnability_speed
import measure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sample_speed
import stage_costs
import sweep_speed
import torch
from measure import Commit, Watched

from raydistill.config import load
from raydistill.distributed import students
from raydistill.guidance.learnability import LearnabilityConfig
from raydistill.tune.space import space


@pytest.mark.parametrize(
    "module",
    [
        chaos,
        cluster_speed,
        encode_speed,
        gpu,
        kmeans_speed,
        layout_speed,
        learnability_lead,
        learnability_speed,
        sample_speed,
        stage_costs,
        sweep_speed,
    ],
)
def test_help_teaches(module, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and f"python benchmarks/{module.__name__}.py" in said and "--child" not in said


def test_the_ratio_of_a_sweep_follows_from_the_costs_of_a_run() -> None:
    """A run of 14 s of images, 5 s of a set, 8 s of a student and 5 s of the rest; six trials and nine sets of the
    verdict. Two workers train two students at once; 14 s are of the 70 % of the images that trials learn from."""
    stages = {"encode": {"seconds": 12.0}, "group": {"seconds": 2.0}, "sample mgd3": {"seconds": 5.0}}
    costs = sweep_speed.RunCosts.of(stages | {"evaluate": {"seconds": 8.0}}, 32.0)
    assert costs == sweep_speed.RunCosts(14.0, 5.0, 8.0, 5.0) and sweep_speed.candidates(6) == 15
    assert sweep_speed.expected(costs, 6, 2) == pytest.approx(6 * 32 / (5 + 14 + 20 + 15 * (5 + 4)))


def test_a_sweep_and_separate_runs_are_given_the_same_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command is one that its verb takes; runs take 12 s, a sweep 10, and one with ASHA too."""
    commands: list[list[str]] = []

    def watch(words: list[str], log: Path) -> Watched:
        commands.append(words)
        assert words[2:4] == ["--config", "quickstart"]
        config = load("quickstart", words[4:])
        if words[1].endswith("distill.py"):
            (Path(config.run_dir or "") / "logs").mkdir(parents=True)
            costs = {"encode": {"seconds": 4.0}, "evaluate": {"seconds": 4.0}}
            (Path(config.run_dir or "") / "logs" / "costs.json").write_text(json.dumps(costs))
            return Watched(0.0, 12.0, cpu=[(12.0, 20.0)])
        assert [cell["guidance.scale"] for cell in space(config).cells()] == sweep_speed.scales(3)
        return Watched(0.0, 10.0, cpu=[(10.0, 20.0)])

    monkeypatch.setattr(sweep_speed, "watch", watch)
    out = tmp_path / "speed.json"
    assert sweep_speed.main(["--trials", "3", "--asha", "--work", str(tmp_path / "work"), "--out", str(out)]) == 0
    scales = [word for words in commands[:3] for word in words if word.startswith("guidance.scale=")]
    assert scales == [f"guidance.scale={s}" for s in sweep_speed.scales(3)] and len(commands) == 5
    assert "tune.scheduler=asha" in commands[4] and "tune.scheduler=asha" not in commands[3]
    said = capsys.readouterr().out
    assert "| 3 separate runs | 36 | 60 | 12.0 | 20.0 |" in said and "take 3.60 times as long by the clock" in said
    assert json.loads(out.read_text())["one sweep with ASHA"] == {"wall": 10.0, "cpu": 20.0}

    shutil.rmtree(tmp_path / "work")
    assert sweep_speed.main(["--trials", "3", "--runs", "1", "--work", str(tmp_path / "work"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "| 3 separate runs, 1 made (12 to 12 s), the others at their mean | 36 | 60 | 12.0 | 20.0 |" in said
    assert len(json.loads(out.read_text())["runs"]) == 1 and len(commands) == 7


def test_the_separate_runs_that_are_made_spread_over_the_trials(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep_speed.spread([1.0, 2.0, 3.0, 4.0, 5.0], 5) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert sweep_speed.spread([1.0, 2.0, 3.0, 4.0, 5.0], 2) == [1.0, 3.0]
    for runs in ("0", "4"):
        with pytest.raises(SystemExit):
            sweep_speed.main(["--trials", "3", "--runs", runs])
        assert f"--runs: from 1 to 3, not {runs}" in capsys.readouterr().err


class TestSteady:
    """Two workers that start after 10 s, take 5 s a batch of 20 and 1 CPU second a second each."""

    commits = tuple(Commit(15.0 + 5 * (i // 2), 20) for i in range(8))
    done = Watched(0.0, 40.0, cpu=[(float(t), 2.0 * max(0, t - 10)) for t in range(41)])

    def test_start_up_is_left_out(self) -> None:
        rate = measure.steady(self.done, self.commits, 2)
        assert (rate.rows, rate.wall_s, rate.cpu_s) == (120, 15.0, 30.0)
        assert rate.row() == {
            "wall_s_an_image": 0.125, "cpu_s_an_image": 0.25, "first_commit_s": 15.0, "whole_command_s": 40.0
        }  # fmt: skip

    def test_a_short_last_unit_counts_for_what_it_holds(self) -> None:
        one = [Commit(10.0, 256), Commit(20.0, 256), Commit(25.0, 128)]
        assert measure.steady(self.done, one, 1).row()["wall_s_an_image"] == 15 / 384

    def test_too_few_commits_tell_nothing(self) -> None:
        with pytest.raises(ValueError, match="ask for more images"):
            measure.steady(self.done, self.commits[:3], 2)


def test_a_command_is_watched_with_its_children(tmp_path: Path) -> None:
    """Both the process and its child spin for 0.3 CPU seconds."""
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {spin!r}])\n{spin}\ntime.sleep(0.6)"
    done = measure.watch([sys.executable, "-c", code], tmp_path / "log", memory_every=0.0)
    assert done.cpu[-1][1] > 0.3 and done.cpu_between(done.start, done.end) == pytest.approx(done.cpu[-1][1], abs=0.3)
    assert max(b for _, b in done.pss) > 2**20
    with pytest.raises(SystemExit, match="the reason"):
        measure.watch([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path / "log")


def test_a_folder_of_other_inputs_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "commits").mkdir(parents=True)
    with pytest.raises(SystemExit, match="give another --work"):
        measure.commits(tmp_path)


def test_stage_costs_add_up() -> None:
    """Encode's account appears at 20 s and claims 10 of them; what no stage claims is `other`."""
    done = Watched(0.0, 30.0, cpu=[(0.0, 0.0), (30.0, 60.0)], pss=[(5.0, 100), (15.0, 300), (25.0, 200)])
    accounts = stage_costs.Accounts(Path("nowhere"))
    accounts.probe(1.0)
    assert accounts.seen == {}
    accounts.seen = {"encode": (20.0, {"seconds": 10.0, "units": 50, "unit": "images"})}  # type: ignore[dict-item]
    costs = stage_costs.costs(done, accounts)
    assert (costs["encode"]["cpu_s"], costs["encode"]["peak"]) == (20.0, 300)
    assert costs["other"] == {"seconds": 20.0, "cpu_s": 40.0, "peak": 0}
    assert stage_costs.row("encode", costs["encode"])[:5] == ["encode", "10.0", "20.0", "50 images", "200.0"]


class TestClusterers:
    def test_they_find_the_modes_that_there_are(self) -> None:
        """Five tight groups: whatever finds them has the same sum of squared distances."""
        rng = np.random.default_rng(0)
        x = (np.repeat(10 * np.eye(5, 8), 12, axis=0) + 0.1 * rng.standard_normal((60, 8))).astype(np.float32)
        groups = x.reshape(5, 12, 8)
        truth = np.square(groups - groups.mean(1, keepdims=True)).sum()
        for cluster in cluster_speed.CLUSTERERS.values():
            assert cluster(x, 5, 0) == pytest.approx(truth, rel=1e-4)

    def test_a_table(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "c.json"
        small = ["--repeat", "1", "--k", "2", "--points", "40", "8"]
        cluster_speed.main(["--work", str(tmp_path), *small, "--out", str(out)])
        assert "| random, 40 x 8, k = 2 | raydistill k-means |" in capsys.readouterr().out
        assert json.loads(out.read_text())["results"]["random, 40 x 8, k = 2"]["scikit-learn"]["sse"] == 1

    def test_the_two_k_means_take_turns_on_the_same_points(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Few clusters of few points: both find the same SSE or nearly so."""
        kmeans_speed.main(["--repeat", "2", "--k", "1", "--sizes", "40x8", "--tasks", "1"])
        said = capsys.readouterr().out
        (row,) = [line for line in said.splitlines() if line.startswith("| 40x8 | 1 | 1 |")]
        assert row.endswith("| 1.0000 |") and "chunks take" in said


class TestGpu:
    def test_flops_are_those_of_the_papers(self) -> None:
        """DiT-XL/2 at 256 px: 118.6 G multiply-adds (Peebles & Xie, table 9); Stable Diffusion's encoder: 136.4 G."""
        encode, forward = gpu.flops(tiny=False)
        assert encode / 2e9 == pytest.approx(136.4, rel=1e-3) and forward / 2e9 == pytest.approx(118.6, rel=1e-3)

    def test_it_runs_where_there_is_no_gpu(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        torch.set_num_threads(1)
        tiny = ["--tiny", "--encode-batch", "2", "--sample-batch", "2", "--steps", "2", "--repeat", "1"]
        gpu.main(["--device", "cpu", *tiny, "--out", str(tmp_path / "g.json")])
        assert "| DiT sample | as it is | 2 |" in capsys.readouterr().out
        assert [r["rate"] > 0 for r in json.loads((tmp_path / "g.json").read_text())["rows"]] == [True, True]

    def test_without_cuda_it_says_so(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert gpu.main([]) == 0 and capsys.readouterr().out.startswith("no CUDA device is visible")


class TestLoops:
    """The plain sides, as processes of their own, on the smallest inputs."""

    @pytest.fixture
    def weights(self, shared: Path) -> Path:
        if not (shared / "weights" / "taesd").is_dir():
            pytest.skip("no weights in ../shared")
        return shared / "weights"

    def test_sampling_one_at_a_time(self, weights: Path, tmp_path: Path) -> None:
        body = {"vae": str(weights / "taesd"), "generator": str(weights / "nette128-dit"), "threads": 1, "count": 1,
                "steps": 2, "cfg_scale": 3.0, "guidance_scale": 0.1, "out": str(tmp_path / "out")}  # fmt: skip
        subprocess.run(measure.child(sample_speed.__file__, **body), check=True, env=measure.plain_environment())
        (measured,) = json.loads((tmp_path / "out").read_text())
        assert measured["wall_s"] > 0 and measured["cpu_s"] > 0 and measured["bytes"] > 1000

    def test_encoding_agrees_with_the_stage(self, weights: Path, shared: Path, tmp_path: Path) -> None:
        """The loop computes what the stage computes: half the table would be worth nothing otherwise."""
        from raydistill.models.device import Placement
        from raydistill.models.vae import Vae, VaeSpec
        from raydistill.sources.images import decode

        rows = next(pq.ParquetFile(next((shared / "data" / "imagenette-224").glob("val-*"))).iter_batches(6))
        (tmp_path / "images").mkdir()
        pq.write_table(pa.Table.from_batches([rows]), tmp_path / "images" / "train-0.parquet")
        body = {"images": str(tmp_path / "images"), "vae": str(weights / "taesd"), "size": 32, "batch": 4,
                "out": str(tmp_path / "out")}  # fmt: skip
        subprocess.run(measure.child(encode_speed.__file__, **body), check=True, env=measure.plain_environment())
        assert json.loads((tmp_path / "out").read_text())["images"] == 6
        pixels = np.stack([decode(i["bytes"], 32, 10**8) for i in rows["image"].to_pylist()])
        placement = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
        mine = Vae(VaeSpec(str(weights / "taesd")), placement).encode(torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(np.load(tmp_path / "out.npz")["latent"], mine, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradients_of_a_decoder_of_256_px_fit_a_card_of_24_gb_and_the_page_says_how_large_they_are(
    dtype: torch.dtype,
) -> None:
    whole, weights = learnability_speed.counted(256, 64, False, dtype)
    page = (Path(learnability_speed.__file__).parents[1] / "docs" / "methods.md").read_text()
    assert f"{(whole - weights) / 1e6:,.0f} MB" in page.replace("\n", " ")
    assert LearnabilityConfig().micro_batch * (whole - weights) + weights < 24e9 - 2.7e9, "beside DiT-XL/2"
    saved, same = learnability_speed.counted(256, 64, True, dtype)
    assert saved - same < (whole - weights) / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_do_those_through_the_generator_beside_them(dtype: torch.dtype) -> None:
    decoder, generator = (
        whole - weights
        for whole, weights in (
            learnability_speed.counted(256, 64, False, dtype),
            learnability_speed.counted_through(256, dtype),
        )
    )
    page = (Path(learnability_speed.__file__).parents[1] / "docs" / "methods.md").read_text()
    assert f"{generator / 1e6:,.0f} MB" in page.replace("\n", " ")
    assert LearnabilityConfig().micro_batch * (decoder + generator) < 24e9 - 2.7e9, "beside the weights of DiT-XL/2"


def test_layouts_are_measured_of_every_network_that_looks(tmp_path: Path) -> None:
    out = tmp_path / "layout.json"
    assert layout_speed.main(["--image-size", "32", "--repeat", "1", "--out", str(out)]) == 0
    measured = json.loads(out.read_text())["seconds"]
    assert {"VAE, 32 px, to latents", "VAE, 32 px, to images and back", "efficientnet_lite0, 32 px"} <= set(measured)
    assert all(len(row) == 4 and min(row.values()) > 0 for row in measured.values())


def test_what_leads_further_is_told_by_seeds_that_both_have() -> None:
    """S higher by 0.1 in one seed and 0.3 in another is 0.2, give or take t times the standard error: 12.7 x 0.1."""
    of = learnability_lead.Grown
    grown = [of("a", 0, 1.0, 0.3, 0.9, 6, 50), of("a", 1, 2.0, 0.3, 0.9, 6, 50), of("a", 2, 9.0, 0.3, 0.9, 6, 50)]
    grown += [of("b", 0, 1.1, 0.25, 0.9, 36, 50), of("b", 1, 2.3, 0.25, 0.9, 36, 50)]
    absolute, paired = learnability_lead.rows(grown)
    assert absolute[0][:2] == ["a", "6 of 50"] and absolute[0][2].startswith("4.00 [") and absolute[0][-1] == "3"
    assert absolute[1] == ["b", "36 of 50", *absolute[1][2:4], "90.0 [90.0,\N{NO-BREAK SPACE}90.0]", "2"]
    (row,) = paired
    low, high = (x.replace("\N{MINUS SIGN}", "-") for x in row[1].removeprefix("0.20 [").strip("]").split(","))
    assert float(high) - float(low) == pytest.approx(2 * 12.7 * 0.1, abs=0.02)
    assert row[0] == "b \N{MINUS SIGN} a" and row[2].startswith("\N{MINUS SIGN}5.0 [") and row[-1] == "2"
    alone, none = learnability_lead.rows(grown[:1])
    assert none == [] and alone == [["a", "6 of 50", "1.00", "30.0", "90.0", "1"]], "a single seed has no interval"


def test_a_curriculum_is_grown_as_the_row_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of the three steps of its window, or at fewer."""
    monkeypatch.setattr(students, "fit", learnability_lead.fit)
    small = ["source.classes=['3','7']", "ipc=2", "sampler.steps=4", "evaluate.redundancy_parts=2"]
    small += ["evaluate.protocol.visits=400", "evaluate.width=8"]
    at_each = learnability_lead.grow("at every step", 0, tmp_path, small)
    fewer = learnability_lead.grow("default", 0, tmp_path, [*small, "learnability.every=3"])
    assert (at_each.led, fewer.led) == (3, 1) and {(g.seed, g.steps) for g in (at_each, fewer)} == {(0, 4)}
    assert all(0 <= g.redundancy <= 1 and 0.5 < g.accuracy <= 1 for g in (at_each, fewer))


def test_bytes_held_are_fewer_with_checkpointing(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert learnability_speed.main(["--tiny", "--batch", "1", "--repeat", "1", "--width", "8", "--out", str(out)]) == 0
    held = json.loads(out.read_text())["bytes"]
    assert 0 < held["pixel, checkpointing"] < held["pixel"] / 2
