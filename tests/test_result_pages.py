"""The tables of docs/results and of the README are what the committed cells say, written by one command."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pages
import pytest
import quickstart
from intervals import accuracy

from raydistill.evaluation.score import packed
from raydistill.results.reporting import lines
from raydistill.tune.outcomes import outcomes


@pytest.fixture(scope="module")
def known() -> dict[str, pages.Entry]:
    return pages.entries()


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.name)
def test_a_page_is_what_its_cells_say(page: Path, known: dict[str, pages.Entry]) -> None:
    """To the byte: `python benchmarks/results/pages.py` writes it anew."""
    assert pages.filled(page.read_text(), known) == page.read_text()


def test_every_entry_has_its_place_and_every_table_an_entry(known: dict[str, pages.Entry]) -> None:
    placed = [m[2] for page in pages.PAGES for m in pages.BLOCK.finditer(page.read_text())]
    marked = [name for page in pages.PAGES for name in re.findall(r"<!-- table: (\S+)", page.read_text())]
    assert sorted(placed) == sorted(known) == sorted(marked)


def test_every_grid_of_cells_is_on_a_page(known: dict[str, pages.Entry]) -> None:
    grids = {p.parent.name for p in pages.HERE.glob("*/*-seed*.json")}
    of_folder = {Path(entry.out).name: entry for entry in known.values() if entry.out}
    assert grids <= set(of_folder)
    assert all(pages.MISSING in pages.block(of_folder[folder]) for folder in set(of_folder) - grids)


def test_the_readme_keeps_one_table_of_results_of_at_most_ten_rows_with_intervals() -> None:
    results = (pages.ROOT / "README.md").read_text().partition("## Results\n")[2].partition("\n## ")[0]
    rows = [line for line in results.splitlines() if line.startswith("| ")]
    assert len(pages.BLOCK.findall(results)) == 1 and 2 < len(rows) <= 12, "the head, its rule and ten rows"
    assert all(re.search(r"\[\S+, \S+\]", line.replace("\N{NO-BREAK SPACE}", " ")) for line in rows[2:])
    assert "docs/results/README.md" in results


def test_a_changed_cell_changes_its_page(tmp_path: Path, known: dict[str, pages.Entry], monkeypatch: Any) -> None:
    """The test above cannot pass for nothing: the numbers of a block come from the cells and nowhere else."""
    entry = known["search-mode"]
    for cell in (pages.ROOT / entry.out).glob("*.json"):
        tree = json.loads(cell.read_text())
        tree["rows"][0]["last"] /= 2
        (tmp_path / cell.name).write_text(json.dumps(tree))
    before = pages.block(entry)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    after = pages.block(pages.Entry(**{**vars(entry), "out": "."}))
    assert "| 2,846 | 46.1 ± 1.3 |" in before
    assert "| 2,846 | 46.1 ± 1.3 |" not in after and "| 2,846 | 23.1 ± 0.7 |" in after


def made(*commits: str) -> list[dict[str, Any]]:
    """Cells by date and commit; without one they do not know."""
    stamps = [dict(zip(("date", "commit"), c.split(), strict=True)) if c else None for c in commits]
    return [{"machine": "2 cores"} | ({"made": stamp} if stamp else {}) for stamp in stamps]


def test_what_made_a_grid_stands_above_it() -> None:
    """Dates in the order of time and the commits of each as the cells come, whatever their names; what does not know
    when it was made is told by the entry."""
    entry = pages.Entry("results/table.py", "", "an hour", "2026-11-30, commit 0", out="benchmarks/results/x")
    cells = made("2026-12-03 f", "2026-12-03 a", "2026-12-01 e", "", "2026-12-03 f")
    assert pages.origin(entry, cells) == (
        "Made 2026-11-30, commit 0 (1 cell); 2026-12-01, commit e (1 cell); 2026-12-03, commits f (2 cells), a (1 cell)"
        "; 2 cores; an hour; [cells](../../benchmarks/results/x)."
    )
    assert pages.dates(entry, made("", "")) == ["2026-11-30, commit 0"], "all alike: nothing to count"
    assert pages.dates(entry, made("2026-12-01 e", "2026-12-01 e")) == ["2026-12-01, commit e"]


def kept(entry: pages.Entry) -> list[dict[str, Any]]:
    """The cells that its table is of."""
    module = importlib.import_module(Path(entry.script).stem)
    args = entry.arguments_of(module)
    args.out = pages.ROOT / entry.out
    return [json.loads(p.read_text()) for p in module.files(args)]


def test_what_made_a_table_are_its_own_cells_and_not_its_neighbours(known: dict[str, pages.Entry]) -> None:
    """Hard and soft labels of ImageNette lie in one folder, and were made by other commits."""
    hard, soft = (" ".join(pages.dates(e, kept(e))) for e in (known["nette128-3925"], known["nette128-3925-fkd"]))
    assert "7cb2aad (143 cells)" in hard and "040a34d" not in hard
    assert "040a34d (72 cells)" in soft and "7cb2aad" not in soft


def test_a_table_of_cells_that_do_not_know_when_they_were_made_says_it(known: dict[str, pages.Entry]) -> None:
    for name, entry in known.items():
        if not entry.short:
            assert entry.computed or (entry.out and all("made" in cell for cell in kept(entry))), name


def test_the_sample_in_the_readme_is_what_the_kept_run_of_the_quickstart_said() -> None:
    """To the letter: its accuracies, and the intervals of its claims."""
    kept = json.loads((pages.HERE / "quickstart" / "mgd3-seed0.json").read_text())
    said = [f"{'accuracy':<13} {line}" for line in lines(quickstart.judged(kept))]
    shown = [line for line in (pages.ROOT / "README.md").read_text().splitlines() if line.startswith("accuracy ")]
    assert len(shown) > 4 and set(shown) <= {line.replace("\N{NO-BREAK SPACE}", " ") for line in said}


def cell(seed: int, right: str, tested: list[int], last: float) -> dict[str, Any]:
    return {"seed": seed, "rows": [{"student": "convnet", "training_seed": seed, "last": last, "best": last,
                                    "right": right, "tested": tested}]}  # fmt: skip


def test_the_error_of_the_test_images_widens_the_interval_of_a_set() -> None:
    """60 and 70 of 100 images: over seeds 65 ± t s, and with the images wider; a class counts as much as another."""
    import torch

    cells = []
    for seed, of_first in ((0, 50), (1, 60)):
        right = torch.zeros(100, dtype=torch.bool)
        right[:of_first] = True
        right[80:90] = True
        cells.append(cell(seed, packed(right.numpy()), [80, 20], (of_first + 10) / 100))
    top1 = accuracy(outcomes("mgd3", cells))
    assert top1.mean == pytest.approx(0.65)
    assert top1.seeds is not None and top1.images is not None
    assert top1.images.low < top1.seeds.low < top1.seeds.high < top1.images.high
    assert accuracy(outcomes("mgd3", cells), "balanced").mean == pytest.approx((55 / 80 + 0.5) / 2)
