"""Several runs on one page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from test_report import Reader

from raydistill.cli import main
from raydistill.report.comparison import ComparedRun, differences, others, render, students
from raydistill.results.outcomes import read, written
from raydistill.results.pairing import TrainingOutcome
from raydistill.sources.images import png
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.tables import table_bytes

ODD = "cat, <b>tom</b>"


def trained(method: str, generation: int, training: int, top1: float) -> TrainingOutcome:
    right = np.arange(100) < round(100 * top1)
    digest, answers, curve = f"{method} {generation}", (right[::2], right[1::2]), ((100, top1 / 2), (200, top1))
    return TrainingOutcome(method, digest, "convnet", generation, training, top1, top1, "t", answers, curve)


def run(
    path: Path,
    method: str,
    accuracy: float,
    values: Sequence[float] = (),
    seed: int = 0,
    protocol: dict[str, Any] | None = None,
    **metrics: float,
) -> Path:
    root = Location.of(str(path))
    tree = {"method": method, "ipc": 2, "seed": 0, "run_dir": str(path), "source": {"image_size": 8, "path": "/x/set"}}
    tree |= {} if protocol is None else {"evaluate": {"protocol": protocol, "width": 64}}
    seals.write(root, "config.yaml", yaml.safe_dump(tree).encode())
    flat = {"accuracy/convnet/mean": accuracy, "accuracy/convnet/std": 0.01, "accuracy/convnet/best_mean": accuracy}
    seals.write(root, "result.json", json.dumps(flat | metrics).encode())
    if values:
        seals.write(root, "trainings.json", written([trained(method, seed, t, v) for t, v in enumerate(values)]))
    picture = png(np.full((8, 8, 3), int(255 * accuracy), np.uint8))
    image = {"bytes": picture, "path": "a.png"}
    rows = [{"image": image, "class_name": c, "slot": s} for c in ("dog", ODD) for s in range(2)]
    seals.write(root, "distilled/data/train-00000-of-00001.parquet", table_bytes(pa.Table.from_pylist(rows)))
    return path


def test_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = run(tmp_path / "a", "mgd3", 0.5, fid=12.5), run(tmp_path / "b", "random", 0.25)
    assert main(["report", str(a), str(b), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "50.0 ± 1.0" in page and "25.0 ± 1.0" in page and "12.5" in page
    assert page.count("<img") == 8 and "&lt;b&gt;tom" in page and "<b>tom" not in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    "beside", [["--dry-run"], ["--print-config"], ["--config", "quickstart"], ["--run", "a"], ["--help-all"]]
)
def test_what_a_report_of_several_runs_does_not_heed_is_refused(
    beside: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "page.html")]
    assert main([*words, *beside]) == 2
    assert f"report of several runs reads no {beside[0]}; leave it out" in capsys.readouterr().err


def test_baselines_stand_below_their_run_and_the_best_of_the_runs_is_marked(tmp_path: Path) -> None:
    beside = {"accuracy/full_data/convnet/mean": 0.9, "accuracy/full_data/convnet/std": 0.02}
    a = run(tmp_path / "a", "mgd3", 0.5, (0.5, 0.51), **beside)
    b = run(tmp_path / "b", "dit", 0.25, (0.25, 0.26))
    (a / "report.html").write_text("its page")
    assert main(["report", str(a), str(b), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert '<td><a href="./a/report.html">a</a></td>' in page and "<td>b</td>" in page
    assert page.index("mgd3</td>") < page.index("full data</td>") < page.index("dit</td>")
    assert page.count('class="num top higher"') == 2 and '<td class="num top higher">50.0 ± 1.0</td>' in page
    assert "While they learn" in page and page.count('<polyline class="curve') == 2


def test_names_of_sets_and_of_folders_are_as_they_are(tmp_path: Path) -> None:
    """A baseline's name has underscores of its own; a folder's may hold what means something in an address."""
    a = run(tmp_path / "c#1", "mgd3", 0.5, **{"accuracy/mgd3_ddim/convnet/mean": 0.4})
    b = run(tmp_path / "a:b", "dit", 0.25)
    for path in (a, b):
        (path / "report.html").write_text("its page")
    assert main(["report", str(a), str(b), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "mgd3_ddim</td>" in page and "mgd3 ddim" not in page
    links = re.findall('<td><a href="([^"]*)"', page)
    targets = [urlsplit(urljoin((tmp_path / "page.html").as_uri(), link)) for link in links]
    assert [unquote(t.path) for t in targets] == [str(p / "report.html") for p in (a, b)]
    assert {(t.scheme, t.fragment) for t in targets} == {("file", "")}


class TestPairs:
    """Runs are compared in the pairs of their trainings, as the sets of one run are."""

    @staticmethod
    def page(tmp_path: Path, *runs: Path) -> str:
        assert main(["report", *map(str, runs), "--out", str(tmp_path / "page.html")]) == 0
        return Reader((tmp_path / "page.html").read_text()).text

    def test_the_best_is_named_and_better_only_if_the_interval_says_so(self, tmp_path: Path) -> None:
        a = run(tmp_path / "a", "mgd3", 0.5, (0.5, 0.51, 0.49))
        b = run(tmp_path / "b", "mgd3", 0.6, (0.6, 0.61, 0.6), seed=1)
        c = run(tmp_path / "c", "dit", 0.59, (0.55, 0.64, 0.58))
        words = self.page(tmp_path, a, b, c)
        assert "Best of 3 runs: b, 60.0 ± 1.0 %, 1.3 points [" in words
        assert "ahead of c: cannot be told apart at 3 training seeds; " in words
        assert "b − a 10.3 [" in words and "better" in words

    def test_the_pairs_say_which_is_better_where_one_run_has_more_seeds(self, tmp_path: Path) -> None:
        """b is ahead on each seed that both have; seven more, on which it is poor, lower its mean alone."""
        a = run(tmp_path / "a", "mgd3", 0.501, (0.6, 0.5, 0.4))
        b = run(tmp_path / "b", "dit", 0.363, (0.62, 0.51, 0.42, *(0.3,) * 7))
        words = self.page(tmp_path, a, b)
        assert "On the seeds that both have: b, 1.7 points [" in words and "Best of" not in words

    def test_the_mean_over_classes_leads_where_it_does_on_the_page_of_a_run(self, tmp_path: Path) -> None:
        """Where the classes that a run trained on are uneven, its own page compares by it; test sets of two runs that
        differ in their size, and are even each, are no reason."""
        even = run(tmp_path / "a", "mgd3", 0.5, (0.5, 0.51)), run(tmp_path / "b", "dit", 0.6, (0.6, 0.61))
        small = [replace(trained("dit", 0, t, 0.6), answers=(np.ones(20, bool),) * 2, test="s") for t in (0, 1)]
        seals.write(Location.of(str(even[1])), "trainings.json", written(small))
        assert "the mean over classes, which leads here" not in self.page(tmp_path, *even)
        keys = {"difference/mgd3/random/convnet/balanced/mean": 0.1}
        uneven = run(tmp_path / "c", "mgd3", 0.5, (0.5, 0.51), **keys)
        assert "the mean over classes, which leads here" in self.page(tmp_path, uneven, even[0])

    def test_sets_of_other_sizes_are_said_to_be(self, tmp_path: Path) -> None:
        a, b = run(tmp_path / "a", "mgd3", 0.5, (0.5, 0.51, 0.49)), run(tmp_path / "b", "dit", 0.6, (0.6, 0.61, 0.6))
        assert "images against" not in self.page(tmp_path, a, b)
        name = "distilled/data/train-00000-of-00001.parquet"
        kept = pq.read_table(b / name)
        seals.write(Location.of(str(b)), name, table_bytes(pa.concat_tables([kept, kept])))
        assert "better than a, with 8 images against 4" in self.page(tmp_path, a, b)

    def test_a_run_of_an_older_version_is_shown_and_not_compared(self, tmp_path: Path) -> None:
        a, b = run(tmp_path / "a", "mgd3", 0.5, (0.5, 0.51, 0.49)), run(tmp_path / "b", "random", 0.25)
        words = self.page(tmp_path, a, b)
        assert (
            "Not compared in pairs: a, 50.0 ± 1.0 %, and b (another protocol" in words
            and "What can be told apart" not in words
        )

    def test_runs_of_other_protocols_are_shown_and_not_compared(self, tmp_path: Path) -> None:
        hard, soft = ({"name": name, "evaluations": n} for name, n in (("hard", 1), ("fkd", 1)))
        a = run(tmp_path / "a", "mgd3", 0.5, (0.5, 0.51, 0.49), protocol=hard)
        b = run(tmp_path / "b", "dit", 0.9, (0.9, 0.91, 0.92), protocol=soft)
        words = self.page(tmp_path, a, b)
        assert "Not compared: these runs have different protocols" in words and "What can be told apart" not in words
        assert "Best of" not in words and "evaluate.protocol.name hard fkd" in " ".join(words.split())
        assert 'class="num top higher"' not in (tmp_path / "page.html").read_text(), "no best of two protocols"
        c = run(tmp_path / "c", "dit", 0.4, (0.4, 0.41, 0.4), protocol=hard | {"evaluations": 9})
        words = self.page(tmp_path, a, b, c)
        assert "Best of 2 runs: a, 50.0 ± 1.0 %, 9." in words and "a − c 9." in words and "b − " not in words

    def test_what_are_no_trainings_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        a, b = run(tmp_path / "a", "mgd3", 0.5), run(tmp_path / "b", "random", 0.25)
        seals.write(Location.of(str(b)), "trainings.json", b"[1]")
        assert main(["report", str(a), str(b), "--out", str(tmp_path / "page.html")]) == 1
        assert "trainings.json does not hold the trainings of a run" in capsys.readouterr().err

    def test_outcomes_survive_their_file(self) -> None:
        one = trained("mgd3", 0, 1, 0.37)
        (back,) = read(written([one]))
        assert back.answers is not None and one.answers is not None
        assert [a.tolist() for a in back.answers] == [a.tolist() for a in one.answers]
        older = replace(one, answers=None)
        assert replace(back, answers=None) == older and read(written([older])) == [older]
        oldest = replace(older, curve=())
        assert read(written([oldest])) == [oldest] and b"curve" not in written([oldest])


def test_only_what_differs_is_listed() -> None:
    one = ComparedRun("a", {"fid": 1.0, "time/x_s": 3}, {"method": "mgd3", "ipc": 1, "seed": 0, "run_dir": "/a"}, {}, 1)
    two = ComparedRun(
        "b", {"accuracy/convnet/mean": 0.5}, {"method": "dit", "ipc": 1, "seed": 0, "run_dir": "/b"}, {}, 1
    )
    assert differences([one, two]) == [("method", ["mgd3", "dit"])]
    assert others([one, two]) == [("fid", ["1", "–"])]
    assert students([one, two]) == ["convnet"]
    assert "–" in render([one, two])


def test_what_a_runs_own_page_draws_point_by_point_is_no_metric() -> None:
    """A curve of W2 has thirty points, the matrix of ten parts a hundred cells; what sums each of them up has a row."""
    config = {"method": "ddoq", "ipc": 1, "seed": 0}
    drawn = {f"w2/curve/{k}/{kind}": 1.0 / k for k in (1, 2, 5) for kind in ("equal", "weighted", "least")}
    drawn |= {f"parts/convnet/{i}/{j}": 0.5 for i in (1, 2) for j in (1, 2)}
    kept = {"redundancy/convnet": 0.9, "w2/prototypes/equal": 3.0, "w2/slope": -0.5}
    runs = [ComparedRun(name, drawn | kept, config, {}, 1) for name in ("a", "b")]
    assert [key for key, _ in others(runs)] == sorted(kept)
    assert "w2/curve" not in render(runs) and "parts/" not in render(runs)


@pytest.mark.parametrize(
    ("places", "code", "said"),
    [
        (["a", "missing"], 2, "not a finished run"),
        (["a", "a"], 2, "named twice"),
        (["a", "torn"], 1, "result.json is not what was written"),
    ],
)
def test_what_cannot_be_compared_is_named(
    places: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "a", "mgd3", 0.5)
    (run(tmp_path / "torn", "mgd3", 0.5) / "result.json").write_text("{")
    assert main(["report", *(str(tmp_path / p) for p in places), "--out", str(tmp_path / "page.html")]) == code
    err = capsys.readouterr().err.strip()
    assert said in err and len(err.splitlines()) == 1 and not (tmp_path / "page.html").exists()


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    from raydistill.results.compare import short_names

    assert short_names([str(tmp_path / "x" / "run"), str(tmp_path / "y" / "run")]) == ["x/run", "y/run"]
