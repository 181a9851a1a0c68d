"""How cells of results are computed: one fit for all that can share it, finished ones left alone, lost ones told."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grids
import pyarrow as pa
import pytest
import table

from raydistill.errors import StageFailed
from raydistill.report.scores import FULL
from raydistill.results import increments
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Results
from raydistill.store import schemas
from raydistill.tune import cells, kept, study
from raydistill.tune.cells import Cell, Row


def arguments(tmp_path: Path, **more: Any) -> argparse.Namespace:
    base = {
        "config": "quickstart", "work": tmp_path / "work", "artifacts": tmp_path / "artifacts", "out": tmp_path / "out",
        "seeds": [0], "training_seeds": 1, "overrides": [], "methods": ["random", "kmeans"], "variants": {},
        "flow": None, "full": 0, "full_epochs": None, "across": False,
        "protocols": ["hard"], "ipc": [10], "metrics": [],
    }  # fmt: skip
    return argparse.Namespace(**base | more)


def compute(args: argparse.Namespace, **more: Any) -> None:
    grids.compute(args, grids.grid(args, table.rows(args), args.ipc, args.protocols), **more)


class Images:
    digest = "all"

    def __len__(self) -> int:
        return 50


@dataclass
class Seen:
    """Which methods were run until where, and of each fit its protocol and its sets, each with a training seed."""

    runs: list[tuple[str, str]] = field(default_factory=list)
    fits: list[tuple[str, list[tuple[str, int]]]] = field(default_factory=list)
    wrong: str = ""  # what sampling mgd3 ends with


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()

    def prepare(config: Any) -> Any:
        return SimpleNamespace(config=config, run=None, splits=SimpleNamespace(train=Images(), test=None))

    def run(p: Any, until: str) -> Any:
        seen.runs.append((p.config.method, until))
        if p.config.method == "mgd3" and seen.wrong:
            raise StageFailed(seen.wrong)
        digest = f"{p.config.method} at {p.config.sampler.steps}"
        syntheses: Any = SimpleNamespace(digest=digest, rows=2, parts=())
        return Results(p, syntheses={p.config.method: syntheses})

    class Steps:
        def __init__(self, p: Any) -> None:
            self.evaluate = p.config.evaluate

        def paired(self, sets: Any) -> Any:
            seen.fits.append((self.evaluate.protocol.name, [(ref.name, seed) for ref, seed in sets]))
            return [[SimpleNamespace(set=ref, seed=seed)] for ref, seed in sets]

        def beside(self, p: Any) -> Any:
            return self

    def numbers(done: Any) -> dict[str, Any]:
        rows = [{"student": "convnet", "training_seed": 0, "last": 0.2, "best": 0.3}]
        sets, parts = ([(t.set.name, t.seed) for t in some] for some in (done.trainings, done.on_parts))
        return {"calls": 0.0, "landing": None, "rows": rows, "metrics": {}, "images": 10, "bytes": {"images": 1000},
                "teacher": None, "protocol_name": "hard", "sets": sets, "parts": parts}  # fmt: skip

    monkeypatch.setattr(study, "prepare", prepare)
    monkeypatch.setattr(study, "numbers", numbers)
    monkeypatch.setattr(study, "Steps", Steps)
    monkeypatch.setattr(study.job, "run", run)
    monkeypatch.setattr(study.job, "judge", lambda steps, done: None)
    monkeypatch.setattr(study.job, "start_run", lambda p: seen.runs.append((FULL, "start")))
    return seen


def test_what_is_finished_is_left_alone(seen: Seen, tmp_path: Path) -> None:
    """Of two cells the one on disk is neither prepared nor run, nor is it written again."""
    args = arguments(tmp_path)
    done, left = grids.grid(args, table.rows(args), [10], ["hard"])
    cells.write(done.path(args.out), {"rows": []})
    before = done.path(args.out).read_bytes()
    compute(args, more=lambda done: {"more": 7})
    assert seen.runs == [("kmeans", "sample")]
    assert done.path(args.out).read_bytes() == before and (left.read(args.out) or {})["more"] == 7
    compute(args)
    assert len(seen.runs) == 1 and len(seen.fits) == 1, "and nothing the second time"


def test_trainings_that_differ_in_their_rows_alone_share_a_fit(seen: Seen, tmp_path: Path) -> None:
    """herding has no dice, so that it is trained as often as full data here."""
    compute(arguments(tmp_path, methods=["random", "herding", "kmeans"], seeds=[0, 1, 2], full=3))
    fixed = ("hard", [(name, seed) for name in ("herding", FULL) for seed in (0, 1, 2)])
    first, *others = [("hard", [("random", seed), ("kmeans", seed)]) for seed in (0, 1, 2)]
    assert seen.fits == [first, fixed, *others]


def test_a_generation_seed_has_training_seeds_of_its_own_which_its_sets_share(seen: Seen, tmp_path: Path) -> None:
    args = arguments(tmp_path, seeds=[1, 2], training_seeds=3)
    compute(args)
    of_seed = [[(name, seed) for name in args.methods for seed in seeds] for seeds in ((3, 4, 5), (6, 7, 8))]
    assert [sets for _, sets in seen.fits] == of_seed
    assert (Cell(table.rows(args)[1], 10, 2, "hard").read(args.out) or {})["sets"] == [["kmeans", s] for s in (6, 7, 8)]


def test_protocols_ipcs_and_seeds_have_fits_of_their_own(seen: Seen, tmp_path: Path) -> None:
    compute(arguments(tmp_path, seeds=[0, 1], ipc=[1, 10], protocols=["hard", "fkd"]))
    assert [f[0] for f in seen.fits] == ["hard", "hard", "fkd", "fkd"] * 2
    assert all([name for name, _ in sets] == ["random", "kmeans"] for _, sets in seen.fits)


def test_sets_that_are_the_same_each_have_a_cell(seen: Seen, tmp_path: Path) -> None:
    """In one fit, which trains equal ones once (Steps.paired)."""
    args = arguments(tmp_path, methods=["one", "two"], variants={n: ["method=kmeans"] for n in ("one", "two")})
    compute(args)
    assert [len(sets) for _, sets in seen.fits] == [2] and len(list(args.out.iterdir())) == 2


def test_parts_of_a_set_are_trained_on_in_its_fit_where_redundancy_is_asked_for(seen: Seen, tmp_path: Path) -> None:
    """The whole split is not cut."""
    args = arguments(tmp_path, methods=["kmeans"], overrides=["evaluate.redundancy_parts=2"], training_seeds=2, full=1)
    compute(args)
    parts = [(f"kmeans part {i} of 2", seed) for i in (1, 2) for seed in (0, 1)]
    assert seen.fits == [("hard", [("kmeans", 0), ("kmeans", 1), *parts]), ("hard", [(FULL, 0)])]
    kept = Cell(table.rows(args)[0], 10, 0, "hard").read(args.out) or {}
    assert kept["sets"] == [["kmeans", 0], ["kmeans", 1]] and kept["parts"] == [list(p) for p in parts]


def test_full_data_needs_no_samples(seen: Seen, tmp_path: Path) -> None:
    args = arguments(tmp_path, methods=[], full=2)
    compute(args)
    assert seen.runs == [(FULL, "start")] and seen.fits == [("hard", [(FULL, 0), (FULL, 1)])]
    cell = Cell(table.rows(args)[0], 10, 0, "hard")
    assert (cell.read(args.out) or {})["sets"] == [[FULL, 0], [FULL, 1]]
    full = Results(SimpleNamespace(config=SimpleNamespace(method="random")))  # type: ignore[arg-type]
    assert kept.ended(full) == {"landing": None, "detour": None}


def test_full_data_has_no_increments_that_could_be_counted() -> None:
    """A cell of the whole split has trainings and no set of its own (it ended in a KeyError)."""
    training: Any = SimpleNamespace(set=SimpleNamespace(digest="all", name=FULL), student="convnet", seed=0)
    p: Any = SimpleNamespace(config=SimpleNamespace(method="random"))
    assert increments.numbers(Results(p, trainings=[training])) == {}


def test_samples_that_run_off_are_a_result_and_other_failures_are_not(seen: Seen, tmp_path: Path) -> None:
    """The rest of the seed is trained; below the table stands what has no numbers."""
    args = arguments(tmp_path, methods=["mgd3", "kmeans"])
    seen.wrong = "generator: DIR gave a non-finite prediction at t=632"
    compute(args)
    assert (Cell(table.rows(args)[0], 10, 0, "hard").read(args.out) or {})["diverged"] == seen.wrong
    assert seen.fits == [("hard", [("kmeans", 0)])]
    text = table.summary(args)
    assert "| 10 | kmeans |" in text and "| mgd3 |" not in text
    assert text.endswith("\n\nThe network's predictions became infinite: mgd3 (ipc 10, seed 0).")
    args.methods = ["mgd3"]
    assert table.summary(args) == "The network's predictions became infinite: mgd3 (ipc 10, seed 0)."
    seen.wrong, args.seeds = "sample: the disk is full", [1]
    with pytest.raises(StageFailed, match="disk"):
        compute(args)
    assert "sample: the disk is full" in (args.work / "logs" / "error.txt").read_text(), "where the line says it is"


def test_landing_is_of_slots_that_have_a_prototype_and_detour_of_whole_ways() -> None:
    trace = [{"step": 1, "name": "detour", "value": 9.0}, {"step": 0, "name": "detour", "value": 1.5}]
    columns = {"nfe": [4, 4], "landing": pa.array([0.2, None]), "trace": pa.array([trace] * 2, schemas.TRACE)}
    part: Any = SimpleNamespace(read=lambda _: pa.table(columns), manifest=SimpleNamespace(numbers={}))
    done = Results(SimpleNamespace(config=SimpleNamespace(method="pgfm")), syntheses={"pgfm": DistilledSet((part,))})  # type: ignore[arg-type]
    assert kept.ended(done) == {"landing": 0.2, "detour": 1.5}


def test_a_row_wins_over_what_all_cells_have_and_the_protocol_over_both(tmp_path: Path) -> None:
    args = arguments(tmp_path, overrides=["sampler.steps=99", "evaluate.baselines=[random]", "sample.actors=2"])
    row = Row("x", ("sampler.steps=4", "evaluate.protocol.name=hard"))
    config = grids.study(args).configured(Cell(row, 10, 1, "fkd"), tmp_path)
    assert (config.sampler.steps, config.sample.actors, config.seed, config.ipc) == (4, 2, 1, 10)
    assert config.evaluate.baselines == [] and config.artifact_dir == str(args.artifacts)
    assert config.evaluate.protocol.name == "fkd"
    assert grids.study(args).configured(Cell(row, 10, 1), tmp_path).evaluate.protocol.name == "hard"
