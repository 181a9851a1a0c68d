"""The table of faults in docs/operations.md: every row says by what it is shown, and that is there."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()
CHAOS = ROOT / "benchmarks" / "results" / "chaos"


def rows() -> dict[str, list[str]]:
    """Fault -> the other cells: what happens, how often it was tried, what was lost, what shows it."""
    section = PAGE.partition("\n## Faults\n")[2].partition("\nThe faults at random are one command")[0]
    lines = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if line[:1] == "|"
    ]
    return {first: rest for first, *rest in lines[2:]}


def functions(path: Path) -> set[str]:
    """Test functions of a file, and Class::function."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
    return names


def test_the_table_has_its_rows() -> None:
    assert len(rows()) > 25 and {len(cells) for cells in rows().values()} == {4}


@pytest.mark.parametrize("fault", rows())
def test_what_shows_a_fault_exists(fault: str) -> None:
    *_, shown = rows()[fault]
    tests = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", shown)
    benchmarks = re.findall(r"`(benchmarks/\w+\.py)`", shown)
    assert tests or benchmarks, f"{fault}: nothing shows it"
    for file, name in tests:
        assert name in functions(ROOT / file), f"{fault}: {file} has no {name}"
    for file in benchmarks:
        assert (ROOT / file).is_file()


def test_the_numbers_of_the_chaos_runs_are_those_that_they_left() -> None:
    runs = [json.loads(file.read_text()) for file in sorted(CHAOS.glob("*.json"))]
    drawn = Counter(fault["kind"] for run in runs for fault in run["faults"])
    told = {fault: cells[1] for fault, cells in rows().items() if "`benchmarks/chaos.py`" in cells[3]}
    assert runs and drawn == {fault.partition(" at random")[0]: int(cell.split()[0]) for fault, cell in told.items()}
    assert all(run["in_all"]["commits_lost"] == run["in_all"]["files_that_differ"] == 0 for run in runs)
