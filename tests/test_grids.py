"""The grids of efficiency and stability: what their tables say of given cells, that finished ones are left alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import efficiency
import grids
import pytest
import stability
from tiny_run import TinyRun

from raydistill.config import load
from raydistill.errors import BadInput
from raydistill.methods.resolve import resolve
from raydistill.results import costs
from raydistill.state import Results
from raydistill.store.rundir import RunDir
from raydistill.tune import cells
from raydistill.tune.cells import Cell, Row

SCRIPTS = [efficiency, stability]


def arguments(tmp_path: Path, **more: Any) -> argparse.Namespace:
    base = {
        "config": "quickstart", "work": tmp_path / "work", "artifacts": tmp_path / "artifacts", "out": tmp_path / "out",
        "seeds": [0, 1], "training_seeds": 1, "only": None, "overrides": [], "print": False,
        "flow": Path("/flow"), "noise": Path("/noise"), "ipc": 10,
        "calls": [4, 8], "noise_calls": [], "steps": [50], "ddim_steps": [], "pgfm": [0.5, 1.0], "mgd3": [0.1, 0.2],
    }  # fmt: skip
    return argparse.Namespace(**base | more)


def write(args: argparse.Namespace, row: Row, seed: int, last: float, ipc: int = 10, **more: Any) -> None:
    coverage = {f"{name}/latent": 0.5 for name in efficiency.COVERAGES}
    scored = {"student": "convnet", "training_seed": seed, "last": last, "best": last + 0.1, "loss": [[8, 0.1 * seed]]}
    record = {"seed": seed, "calls": 8.0, "landing": 0.5, "detour": 1.1, "rows": [scored],
              "metrics": {**coverage, "diversity/latent": 0.3}} | more  # fmt: skip
    cells.write(Cell(row, ipc, seed).path(args.out), record)


def named(rows: list[Row], name: str) -> Row:
    return next(r for r in rows if r.name == name)


@pytest.mark.parametrize("script", SCRIPTS)
class TestBoth:
    def test_help_teaches(self, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            script.main(["--help"])
        said = capsys.readouterr().out
        assert ended.value.code == 0 and f"python benchmarks/results/{script.__name__}.py" in said and "--only" in said

    def test_without_a_generator_it_says_so(self, script: Any, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            script.main([])
        assert "give --flow DIR, --noise DIR or both" in capsys.readouterr().err

    def test_an_unknown_row_is_refused_before_any_work(
        self, script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        where = ["--noise", str(tmp_path), "--work", str(tmp_path / "w"), "--out", str(tmp_path / "o")]
        assert script.main([*where, "--only", "mgd4"]) == 2
        assert "'mgd4' is no row; rows are 'dit 50'" in (said := capsys.readouterr().err) or "'mgd3 0'" in said
        assert not (tmp_path / "w").exists()

    def test_every_row_is_a_configuration_that_holds(self, script: Any, tmp_path: Path) -> None:
        args = arguments(tmp_path, noise_calls=[6], ddim_steps=[20])
        rows = script.rows(args)
        assert len({r.name for r in rows}) == len(rows) >= 5
        for row in rows:
            resolve(grids.study(args).configured(Cell(row, 10, 3), tmp_path))

    def test_one_generator_alone_makes_its_own_rows(self, script: Any, tmp_path: Path) -> None:
        assert {r.name.split()[0] for r in script.rows(arguments(tmp_path, noise=None))} == {"pgfm"}
        assert "pgfm" not in {r.name.split()[0] for r in script.rows(arguments(tmp_path, flow=None))}

    def test_nothing_finished_is_an_empty_table_and_no_plot(self, script: Any, tmp_path: Path) -> None:
        args = arguments(tmp_path, ipc=[10] if script is stability else 10)
        assert script.summary(args) == ""
        script.plot(args, tmp_path / "plot.svg")
        assert not (tmp_path / "plot.svg").exists()

    def test_a_plot_is_made_of_its_cells_alone(self, script: Any, tmp_path: Path) -> None:
        args = arguments(tmp_path, ipc=[10] if script is stability else 10)
        for i, row in enumerate(script.rows(args)):
            for seed in args.seeds:
                write(args, row, seed, 0.3 + 0.01 * i + 0.02 * seed, calls=4.0 * (1 + i), landing=0.9 - 0.1 * (i % 3))
        texts = []
        for name in ("a", "b"):
            script.plot(args, tmp_path / name / "plot.svg")
            texts.append((tmp_path / name / "plot.svg").read_bytes())
        assert texts[0] == texts[1] and b"<svg" in texts[0] and b"dc:date" not in texts[0]
        write(args, script.rows(args)[0], 0, 0.5)
        script.plot(args, tmp_path / "c.svg")
        assert (tmp_path / "c.svg").read_bytes() != texts[0]


class TestCells:
    def test_over_seeds_or_over_trainings(self) -> None:
        two = [{"rows": [{"last": 0.3}, {"last": 0.5}]}, {"rows": [{"last": 0.44}, {"last": 0.44}]}]
        assert grids.accuracy(two, "last") == "42.0 ± 2.8" and grids.accuracy(two[:1], "last") == "40.0 ± 14.1"
        assert grids.accuracy([{"rows": [{"last": 0.3}]}], "last") == "30.0", "one number has no spread"

    def test_samples_that_ran_off_stand_below_the_table(self, tmp_path: Path) -> None:
        args = arguments(tmp_path, seeds=[0])
        rows = efficiency.rows(args)
        cells.write(Cell(rows[0], 10, 0).path(args.out), {cells.DIVERGED: "non-finite"})
        assert efficiency.summary(args) == "The network's predictions became infinite: pgfm 4 (ipc 10, seed 0)."
        write(args, rows[1], 0, 0.4)
        assert "| pgfm 4 |" not in (text := efficiency.summary(args)) and text.endswith("pgfm 4 (ipc 10, seed 0).")

    def test_only_takes_rows_in_their_order(self, tmp_path: Path) -> None:
        rows = efficiency.rows(arguments(tmp_path))
        taken = grids.chosen(arguments(tmp_path, only=["mgd3 50", "pgfm 4"]), rows)
        assert [r.name for r in taken] == ["pgfm 4", "mgd3 50"]
        with pytest.raises(BadInput, match="--only: 'pgfm' is no row; rows are 'pgfm 4', 'pgfm 8'"):
            grids.chosen(arguments(tmp_path, only=["pgfm"]), rows)


class TestEfficiency:
    def test_the_table_adds_costs_up(self, tmp_path: Path) -> None:
        """100 s that all share, then each row's plan and sampling; speed against mgd3's."""
        args = arguments(tmp_path)
        rows = efficiency.rows(args)
        few, many = named(rows, "pgfm 4"), named(rows, "mgd3 50")
        for seed in (0, 1):
            write(args, few, seed, 0.40 + 0.04 * seed, calls=4.0)
            write(args, many, seed, 0.41, calls=50.0)
        stages = {"encode": 70.0, "group": 10.0, "cluster": 20.0}
        cells.write(efficiency.cost_path(args, Row("shared", ())), {"stages": stages})
        cells.write(efficiency.cost_path(args, few), {"stages": {"plan": 1.0, "sample": 14.0}, "s_an_image": 0.05})
        cells.write(efficiency.cost_path(args, many), {"stages": {"plan": 1.0, "sample": 60.0}, "s_an_image": 0.4})
        text = efficiency.summary(args)
        tail = " | ".join(["50.0 ± 0"] * 4)
        assert f"| pgfm 4 | 4 | 0.050 | 8.0 | 14 | 115 | {tail} | 42.0 ± 2.8 | 52.0 ± 2.8 | 2 x 1 |" in text
        assert f"| mgd3 50 | 50 | 0.400 | 1.0 | 60 | 161 | {tail} | 41.0 ± 0 | 51.0 ± 0 | 2 x 1 |" in text
        assert "dit" not in text, "a row without a cell is left out"

    def test_scores_without_costs_have_dashes(self, tmp_path: Path) -> None:
        args = arguments(tmp_path)
        write(args, efficiency.rows(args)[0], 0, 0.4, calls=4.0)
        assert "| pgfm 4 | 4 | – | – | – | – |" in efficiency.summary(args)

    def test_stages_are_counted_under_their_own_names(self, tmp_path: Path) -> None:
        run = RunDir(str(tmp_path / "run"))
        for stage, seconds in {"plan pgfm": 1.0, "sample pgfm": 2.0, "cluster": 3.0}.items():
            costs.add(run.root, stage, seconds, 1, "units")
        done = SimpleNamespace(prepared=SimpleNamespace(run=run))
        assert efficiency.seconds(done) == {"plan": 1.0, "sample": 2.0, "cluster": 3.0}  # type: ignore[arg-type]


class TestStability:
    """mgd3 lands at 1, 0.8, 0.5 with accuracies 30, 40, 10; pgfm at 2, 1.4 (pull 0.3) and 0.6 (pull 0.7)."""

    @pytest.fixture
    def args(self, tmp_path: Path) -> argparse.Namespace:
        args = arguments(tmp_path, ipc=[10], seeds=[0])
        rows = stability.rows(args)
        results = {"mgd3 0": (1.0, 0.3), "mgd3 0.1": (0.8, 0.4), "mgd3 0.2": (0.5, 0.1),
                   "pgfm 0": (2.0, 0.3), "pgfm 0.5": (1.4, 0.5), "pgfm 1": (0.6, 0.4)}  # fmt: skip
        assert set(results) == {r.name for r in rows}
        for name, (landing, last) in results.items():
            write(args, named(rows, name), 0, last, landing=landing)
        return args

    def test_pull_is_the_share_of_the_unguided_landing_that_is_gone(self, args: argparse.Namespace) -> None:
        curves = stability.curves(args, 10)
        assert [p["pull"] for p in curves["mgd3"]] == pytest.approx([0, 0.2, 0.5])
        assert [p["pull"] for p in curves["pgfm"]] == pytest.approx([0, 0.3, 0.7])

    def test_methods_meet_at_the_same_pull(self, args: argparse.Namespace) -> None:
        """At 0.3 mgd3 is a third of the way from 40 to 10; at 0.7 none of its strengths pulls so hard."""
        curve = stability.curves(args, 10)["mgd3"]
        assert stability.matched(curve, 0.3, "last") == pytest.approx(30.0)
        assert stability.matched(curve, 0.7, "last") is None
        text = stability.summary(args)
        assert "| 10 | 0.30 | pgfm 0.5 | 50.0 | 30.0 |" in text and "| 10 | 0.70 | pgfm 1 | 40.0 | – |" in text

    def test_a_pull_is_of_one_seed(self) -> None:
        free = [{"seed": 0, "landing": 1.0}, {"seed": 1, "landing": 2.0}]
        led = [{"seed": 1, "landing": 1.0}, {"seed": 0, "landing": 0.9}, {"seed": 2, "landing": 0.1}]
        assert stability.pulls(led, free) == pytest.approx([0.5, 0.1])

    def test_without_its_unguided_cell_a_method_is_left_out(self, args: argparse.Namespace) -> None:
        Cell(named(stability.rows(args), "mgd3 0"), 10, 0).path(args.out).unlink()
        assert set(stability.curves(args, 10)) == {"pgfm"} and "mgd3 0.1" not in stability.summary(args)

    def test_no_strength_is_no_guidance(self, tmp_path: Path) -> None:
        for row in stability.rows(arguments(tmp_path)):
            sampling = resolve(load("quickstart", row.overrides)).sampling
            assert bool(sampling.acting) == (not row.name.endswith(" 0"))

    def test_the_way_of_a_flow_is_in_its_trace(self) -> None:
        prepared: Any = SimpleNamespace(variants=[resolve(load("quickstart", ["method=pgfm"]))])
        assert stability.walked(Results(prepared)) == {}


class TestTheFirstBatch:
    """Four of the six slots of a plan, sampled again by what samples a run."""

    @pytest.fixture
    def done(self, tmp_path: Path) -> Results:
        tiny = TinyRun(tmp_path / "run")
        tiny.finish(("encode", "group", "cluster", "plan mgd3"))
        prepared: Any = SimpleNamespace(
            variants=[resolve(tiny.config)],
            generator=tiny.generator,
            vae=tiny.vae,
            splits=SimpleNamespace(train=tiny.train),
        )
        return Results(prepared, classes=tiny.sealed("group"), plans={"mgd3": tiny.sealed("plan mgd3")})

    def test_the_way_of_diffusion_is_that_of_the_sampler(self, done: Results) -> None:
        """Longer with DDPM's noise than its shortest."""
        assert stability.walked(done)["detour"] > 1

    def test_it_is_timed_and_leaves_nothing(self, done: Results, tmp_path: Path) -> None:
        timed = efficiency.timed(done, 2)
        assert timed["batch"] == 4 and timed["s_an_image"] > 0
        assert not (tmp_path / "run" / "syntheses").exists()
