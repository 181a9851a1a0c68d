"""What a run would take: work counted, machines and rates read, seconds and money against closed forms."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config
from tiny_run import REAL, TinyRun

from raydistill import cli
from raydistill.config import load
from raydistill.distributed.resources import Reservation, Room
from raydistill.errors import BadInput
from raydistill.methods.resolve import resolve
from raydistill.models.denoiser import GeneratorSpec
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.planning import fleet, rates
from raydistill.planning.asking import evaluations, timesteps
from raydistill.planning.facts import gather
from raydistill.planning.fleet import Fleet, Node
from raydistill.planning.load import StageLoad
from raydistill.planning.losses import expected_seconds
from raydistill.planning.rates import Rates
from raydistill.planning.schedule import Machines, schedule
from raydistill.planning.workload import works
from raydistill.stages.runner import serial

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "cluster.yaml", ROOT / "docs" / "clusters" / "gcp.yaml"]
GPUS = ["encode.num_gpus=1", "sample.num_gpus=1", "evaluate.num_gpus=1"]
ONES = dict.fromkeys(rates.CORE, 1.0)
CORE = Rates("CPU core", ONES, {}, {"ray": 4.0, "tasks": 1.0, "worker": 3.0, "student": 3.0, "fit": 5.0})


def cluster(spot: int, on_demand: int = 0, up_s: float = 0.0, idle_s: float = 0.0) -> Fleet:
    """Machines of a GPU and four CPUs, at 1 and 3 an hour; a head at 0.5."""
    kinds = [("spot", spot, True, 1.0), ("on_demand", on_demand, False, 3.0)]
    nodes = tuple(Node(name, n, Room(4, 1), "G", is_spot, price) for name, n, is_spot, price in kinds if n)
    return Fleet("c", Node("head", 1, Room(0, 0), None, False, 0.5), nodes, up_s, idle_s, fleet.prices(None))


def machines(have: Fleet, **more: Any) -> Machines:
    return Machines(have, CORE, {"G": Rates("G", dict.fromkeys(rates.SHARES, 10.0), {})}, **more)


def sampling(units: int, seconds: float, num_gpus: float = 1.0) -> StageLoad:
    """So many units, each of so many seconds on a GPU."""
    pool = Reservation("sample", 0, 1.0, num_gpus, "auto")
    return StageLoad("sample x", units, "images", units, "actors", {"denoise": 10.0 * units * seconds}, pool=pool)


class TestSchedule:
    def test_units_go_round_the_workers(self) -> None:
        """Seven of 600 s on three GPUs are three rounds, after 2 s of Ray and 3 s of the workers."""
        (stage,) = schedule([sampling(7, 600.0)], machines(cluster(3)))
        assert (stage.workers, stage.seconds) == (3, 2.0 + 3.0 + 3 * 600.0)
        assert stage.gpu_s == 7 * 600.0 and stage.cpu_s == 4.0 + 3 * 3.0

    def test_money_is_that_of_machines_that_are_up(self) -> None:
        """Three spot machines and two at full price, five minutes to come up, ten before they go, and the head."""
        (stage,) = schedule([sampling(10, 3600.0)], machines(cluster(3, 2, up_s=300.0, idle_s=600.0)))
        hours = (5.0 + 7200.0 + 300.0) / 3600
        assert stage.money == pytest.approx((3 * 1.0 + 2 * 3.0) * (hours + 1 / 6) + 0.5 * hours)

    def test_machines_that_wait_are_paid_until_they_go(self) -> None:
        driver = StageLoad("plan x", 1, "slots", 1, costs={"table": 3600.0})
        have = machines(cluster(1, idle_s=600.0))
        _, waits, again = schedule([sampling(1, 3600.0), driver, sampling(1, 3600.0)], have)
        assert waits.money == pytest.approx(1.0 * 600 / 3600 + 0.5)
        assert again.money == pytest.approx((1.0 + 0.5) * again.seconds / 3600 + 600 / 3600)

    def test_a_share_of_a_gpu_is_a_share_of_its_rate(self) -> None:
        whole, halves = (schedule([sampling(8, 60.0, share)], machines(cluster(2)))[0] for share in (1.0, 0.5))
        assert (whole.workers, halves.workers) == (2, 4)
        assert halves.seconds == pytest.approx(whole.seconds) and halves.gpu_s == pytest.approx(whole.gpu_s)

    def test_without_a_gpu_cores_compute_and_machines_without_one_come_first(self) -> None:
        have = cluster(2)
        have = Fleet("c", have.head, (*have.nodes, Node("cpu", 1, Room(8, 0), None, True, 0.2)), 0.0, 0.0, have.prices)
        (stage,) = schedule([sampling(8, 1.0, 0.0)], machines(have))
        assert dict(stage.up) == {"cpu": 1} and stage.workers == 8 and not stage.gpu_s
        assert stage.seconds == pytest.approx(2.0 + 3.0 + 10.0)

    def test_what_fits_on_no_machine_is_refused(self) -> None:
        with pytest.raises(
            BadInput, match=r"sample.num_gpus=2 and sample.num_cpus=1 fit on no machine of c; lower them"
        ):
            schedule([sampling(1, 1.0, 2.0)], machines(cluster(3)))

    def test_decoding_beside_may_be_what_takes_longest(self) -> None:
        pool = Reservation("encode", 0, 0.5, 1.0, "auto")
        work = StageLoad("encode", 8, "images", 8, "stream", {"encode": 80.0}, {"read": 800.0}, pool=pool)
        (stage,) = schedule([work], machines(cluster(2)))
        assert stage.seconds == pytest.approx(2.0 + 3.0 + 800.0 / 8)

    def test_losses_lengthen_a_stage_as_the_closed_form_says(self) -> None:
        """One worker, many units; students of two machines that stop together, in closed form itself."""
        calm, stormy = (schedule([sampling(3000, 60.0)], machines(cluster(1), losses=r))[0] for r in (0.0, 6.0))
        assert stormy.seconds / calm.seconds == pytest.approx(expected_seconds(60.0, 6.0, 3.0) / 60.0, rel=0.05)
        assert stormy.lost > 0 == calm.lost
        pool, train = Reservation("evaluate", 0, 1.0, 1.0, "auto"), {"train": 2 * 36000.0}
        fit = StageLoad("evaluate", 2, "trainings", 2, "fit", train, pool=pool, gang=True, segments=4)
        (stage,) = schedule([fit], machines(cluster(2), losses=1.0))
        assert stage.seconds == pytest.approx(2.0 + 3.0 + 5.0 + 4 * expected_seconds(900.0, 2.0, 3.0))


class TestMachines:
    @pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
    def test_cluster_files_that_ship_have_prices_and_known_gpus(self, file: Path) -> None:
        have, text = fleet.read(str(file), fleet.prices(None), None), yaml.safe_load(file.read_text())
        assert sum(n.count for n in have.nodes) == text["max_workers"] and have.gpus == 8
        assert have.idle_s == 60 * text["idle_timeout_minutes"] and have.head is not None and not have.head.spot
        assert [n.spot for n in have.nodes] == [True, False, True]
        assert all(n.price and rates.of_gpu(n.gpu) for n in have.nodes if n.gpu)
        prices = [n.price for n in have.nodes]
        assert prices[0] < prices[1], "spot is cheaper"

    @pytest.mark.parametrize("most", [{}, {"max_workers": 5}, {"max_workers": 30}], ids=str)
    def test_machines_are_as_many_as_ray_fills_in(self, most: dict[str, int], tmp_path: Path) -> None:
        """Types of the cluster that ships that do not say how many they are, and all of them together or not."""
        tree = yaml.safe_load(FILES[0].read_text()) | most
        if not most:
            del tree["max_workers"]
        for kind in ("gpu_spot", "cpu"):
            del tree["available_node_types"][kind]["max_workers"]
        tree["available_node_types"]["head"]["max_workers"] = 1
        file = tmp_path / "cluster.yaml"
        file.write_text(yaml.safe_dump(tree, sort_keys=False))
        filled = prepare_config(tree)
        expected, left = {}, filled["max_workers"]
        for name, kind in filled["available_node_types"].items():
            expected[name] = min(kind["max_workers"], left)
            left -= expected[name]
        have = fleet.read(str(file), fleet.prices(None), None)
        assert {n.name: n.count for n in have.nodes} == {name: n for name, n in expected.items() if n}

    def test_a_gpu_may_be_named_by_a_number(self, tmp_path: Path) -> None:
        rows = fleet.prices(None).nodes
        nodes = {kind: {"on_demand": p.on_demand, "spot": p.spot} for kind, p in rows.items()}
        nodes["g5.2xlarge"]["gpu"] = 4090  # type: ignore[assignment]
        file = tmp_path / "prices.yaml"
        file.write_text(yaml.safe_dump({"date": "2026-01-01", "currency": "EUR", "note": "ours", "nodes": nodes}))
        have = fleet.read(str(FILES[0]), fleet.prices(str(file)), None)
        assert rates.of_gpu(next(n.gpu for n in have.nodes if n.gpu)) == rates.of_gpu("4090")

    def test_a_hundred_gpus_are_the_same_cluster_scaled(self) -> None:
        have = fleet.read(str(FILES[0]), fleet.prices(None), 100)
        assert [(n.name, n.count) for n in have.nodes] == [("gpu_spot", 75), ("gpu_on_demand", 25), ("cpu", 25)]

    def test_a_record_is_taken_as_it_is_or_by_its_share_of_the_peak(self, tmp_path: Path) -> None:
        rows = [
            {"what": what, "mode": mode, "rate": rate * factor, "flop_an_image": 1e12}
            for mode, factor in (("as it is", 1.0), ("compiled", 2.0))
            for what, rate in (("VAE encode", 100.0), ("DiT sample", 9.89))
        ]
        record = tmp_path / "gpu.json"
        record.write_text(json.dumps({"device": "NVIDIA H100 80GB HBM3", "torch": "2", "peak": 989e12, "rows": rows}))
        measured = rates.read(str(record))
        same, other, core = (measured.on(r) for r in (rates.of_gpu("H100"), rates.of_gpu("L4"), rates.of_core()))
        assert same.per_s["denoise"] == pytest.approx(9.89e12) and same.how["denoise"] == "measured (gpu.json)"
        assert other.per_s["denoise"] == pytest.approx(0.01 * 121e12) and "by the share" in other.how["denoise"]
        assert [rates.model(f"NVIDIA {name}") for name in ("L4", "L40S", "A10G", "K80")] == ["L4", "L40", "A10G", None]
        assert core == rates.of_core() and same.how["train"].startswith("assumed 20 % of its float32 peak")

    def test_a_record_comes_back_from_its_file(self, tmp_path: Path) -> None:
        measured = rates.RateRecord("cpu-X", {"read": 5.0, "train": 1e9}, None, "here", {"worker": 2.5})
        (tmp_path / "r.json").write_text(rates.text(measured))
        core = rates.read(str(tmp_path / "r.json")).on(rates.of_core())
        assert core.per_s["read"] == 5.0 and core.overheads["worker"] == 2.5 and core.how["read"] == "measured (here)"
        assert core.how["png"].startswith("assumed")


def cells(text: str, head: str) -> dict[str, dict[str, str]]:
    """The table by stage and column; columns are apart by two spaces at least, and begin where their heads do."""
    lines = text.splitlines()
    names = [name for name in lines[1].strip().split("  ") if name.strip()]
    starts = [lines[1].index(name.strip()) for name in names]
    rows = {}
    for line in lines[2:]:
        if not line.startswith("  "):
            break
        ends = [*starts[1:], len(line) + 1]
        row = [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
        rows[row[0]] = dict(zip([n.strip() for n in names], row, strict=True))
    assert head in rows["all"], text
    return rows


def test_imagenet_on_the_cluster_that_ships_is_planned_without_images_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--config", "imagenet1k", "--cluster", str(FILES[0]), "--gpus", "100", *GPUS, "sampler.steps=20"]
    words += ["--losses-per-hour", "1"]
    assert cli.main(["plan", *words]) == 0
    out = capsys.readouterr().out
    rows = cells(out, "USD")
    stages = ["encode", "group", "cluster", "plan mgd3", "sample mgd3", "plan random", "sample random"]
    stages += ["plan kmeans", "sample kmeans", "means", "check mgd3"]
    stages += ["measure mgd3", "measure random", "measure kmeans", "evaluate", "all"]
    assert list(rows) == stages
    assert rows["encode"]["work"] == "1,281,167 images" and rows["encode"]["calls"] == f"{5004 * 8 + 5:,}"
    flops = 10_000 * (20 * 2 * 237.3e9 + 622.2e9) / 1e15
    assert rows["sample mgd3"]["FLOP"] == f"{flops:.3g} P" and rows["sample mgd3"]["workers"] == "100"
    assert rows["evaluate"]["work"] == "9 trainings" and float(rows["all"]["USD"].replace(",", "")) > 1
    for told in (
        "prices of ",
        "spot assumed",
        "rates, A10G: denoise: assumed 35 % of",
        "1,281,167 and 50,000 images",
        "1 losses an hour",
    ):
        assert told in out
    assert "deadline_s" not in out, "the preset waits for as long as its trainings take"
    assert not list(tmp_path.iterdir())


def test_this_machine_is_planned_by_a_record_with_what_a_run_took_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "rates.json"
    record.write_text(rates.text(rates.RateRecord("cpu", {"train": 1e9}, None, "there")))
    run = tmp_path / "run"
    job.run(prepare(load("quickstart", [f"run_dir={run}", "ipc=1"])), "encode", execute=serial)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    capsys.readouterr()
    assert cli.main(["plan", "--run", str(run), "--cluster", "local", "--rates", str(record)]) == 0
    rows = cells(capsys.readouterr().out, "took / planned")
    assert rows["encode"]["took"] and float(rows["encode"]["took / planned"]) > 0 and rows["evaluate"]["took"] == "–"
    config = load("quickstart", ["ipc=1"])
    sets = 2 + len(config.evaluate.baselines)
    assert rows["evaluate"]["work"] == f"{sets * 3} trainings" and "USD" not in rows["all"]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_this_machine_is_measured_and_the_record_plans_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every kind of work of the quickstart; a plan by the record is the plan that was printed."""
    record, words = tmp_path / "rates.json", ["plan", "ipc=1", "--cluster", "local", f"run_dir={tmp_path / 'run'}"]
    assert cli.main([*words, "--write-rates", str(record)]) == 0
    out = capsys.readouterr().out
    measured = rates.read(str(record))
    assert set(measured.per_s) == set(rates.CORE) - {"teach"}, "the quickstart asks no classifier"
    assert all(measured.per_s[kind] > 1e8 for kind in ("encode", "denoise", "decode", "train", "test"))
    assert measured.overheads["worker"] > 0.5 and "measured (here, on " in out
    assert cli.main([*words, "--rates", str(record)]) == 0
    assert capsys.readouterr().out == out and [p.name for p in tmp_path.iterdir()] == ["rates.json"]


@pytest.mark.parametrize(
    "keys",
    [
        ["method=ddoq"],
        ["method=ddoq", "sampler.grid=leading"],
        ["method=dit", "sampler.name=ddpm"],
        ["method=mgd3", "sampler.name=ddpm", "start.snr=0.3"],
    ],
    ids=" ".join,
)
def test_a_generator_that_is_not_there_is_asked_as_often_as_one_of_dits_schedule(keys: list[str]) -> None:
    plan = resolve(load("quickstart", keys)).sampling
    assert plan is not None
    of_dit = GeneratorSpec(None)
    assert timesteps(plan, None) == timesteps(plan, of_dit)
    assert evaluations(plan, None) == evaluations(plan, of_dit)
    assert plan.start.snr is None or evaluations(plan, None) < plan.steps


def test_real_images_are_encoded_where_the_gpus_are(tmp_path: Path) -> None:
    """The driver's machine, a cluster's head, may have none and would be refused there. It is the same artifact."""
    tiny = TinyRun(tmp_path / "run")
    tiny.finish(("encode", "group", f"plan {REAL}"))
    in_driver = tiny.stage(f"sample {REAL}")
    tiny.config = tiny.config.model_copy(update={"sample": tiny.config.sample.model_copy(update={"num_gpus": 1.0})})
    in_pool = tiny.stage(f"sample {REAL}")
    assert (in_driver.style, in_pool.style) == ("driver", "actors")
    assert in_pool.artifact.fingerprint == in_driver.artifact.fingerprint and pickle.dumps(in_pool.work)
    for gpus, stage in ((0.0, in_driver), (1.0, in_pool)):
        config, variants, facts = gather(load("quickstart", [f"run_dir={tmp_path / 'q'}", f"sample.num_gpus={gpus}"]))
        planned = {w.stage: w for w in works(config, variants, facts)}[f"sample {REAL}"]
        assert planned.style == stage.style and (planned.pool is None) == (not gpus)


def test_bad_input_is_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    own, bad = tmp_path / "prices.yaml", tmp_path / "bad.yaml"
    own.write_text("date: 2026-01-01\ncurrency: EUR\nnote: ours\nnodes:\n  m6i.xlarge: {on_demand: 1, spot: 1}\n")
    bad.write_text("available_node_types: 3\n")
    file = str(FILES[0])
    cases = [
        (["--cluster", str(tmp_path / "no.yaml")], "No such file"),
        (["--cluster", str(bad)], "has no"),
        (["--cluster", file, "--prices", str(own)], "g5.2xlarge of gpu_spot has no price (prices of 2026-01-01)"),
        (["--cluster", file, "--prices", str(bad)], "it holds date, currency, note and nodes"),
        (["--cluster", file, "--rates", str(bad)], "give a file that `plan --write-rates FILE`"),
        (["--cluster", file, "--gpus", "0"], "give a number from 1"),
        (["--cluster", file, "--losses-per-hour", "-1"], "give a number from 0 to 60"),
        (["--cluster", "local", "--gpus", "3"], "--gpus is of a cluster"),
        (["--gpus", "3"], "--gpus goes with --cluster"),
        (["--cluster", file, "--dry-run"], "exclude each other"),
        (["--cluster", file, "--config", "nette128"], "source.path is not given"),
        (["--cluster", file, "--config", "imagenet1k", "generator.path=a/b"], "known of ImageNet alone"),
        (["--cluster", file, "method=lgd", "ipc=1"], "ipc=1 is a single increment of 1"),
    ]
    for words, says in cases:
        line = refused("plan", *words) if words else ""
        assert says in line, (words, line)
