"""What the pages say of their tables stands in one of them: every difference with its interval, and what is counted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import counts
import pages
import pytest

from raydistill.report.data import Difference
from raydistill.report.scores import FULL

NUMBER = r"[+−-]?\d+(?:\.\d+)?"
INTERVAL = re.compile(rf"\[({NUMBER}),\s({NUMBER})\]")
SAID = re.compile(rf"(?:({NUMBER})(?:\s(?:points|behind))*\s)?\(?\[({NUMBER}),\s({NUMBER})\]")  # 2.6 [0.5, 4.8]
Rows = dict[tuple[float, float], set[str]]


def numbers(low: str, high: str) -> tuple[float, float]:
    a, b = (float(x.replace("−", "-")) for x in (low, high))
    return a, b


def size(number: str) -> str:
    return number.lstrip("+−-")


@pytest.fixture(scope="module")
def rows() -> Rows:
    """The numbers beside each interval of a line of a generated block; of the two sets either may stand first."""
    known: Rows = {}
    for page in pages.PAGES:
        for line in (line for block in pages.BLOCK.finditer(page.read_text()) for line in block[0].splitlines()):
            beside = {size(x) for x in re.findall(rf"(?<![\w.]){NUMBER}(?![\w.])", INTERVAL.sub("", line))}
            for low, high in (numbers(*m.groups()) for m in INTERVAL.finditer(line)):
                known.setdefault((low, high), set()).update(beside)
                known.setdefault((-high, -low), set()).update(beside)
    return known


def unknown(prose: str, rows: Rows) -> list[str]:
    """What is said with an interval and in no row."""
    said = [(m[0], m[1], rows.get(numbers(m[2], m[3]), set())) for m in SAID.finditer(prose)]
    return [words for words, number, beside in said if not beside or (number and size(number) not in beside)]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.name)
def test_every_interval_in_prose_stands_in_a_row_with_its_number(page: Path, rows: Rows) -> None:
    assert unknown(pages.BLOCK.sub("", page.read_text()), rows) == []


def test_a_number_that_is_no_row_s_is_found(rows: Rows) -> None:
    """The test above cannot pass for nothing: 2.6 [0.8, 5.1] is mgd3 over unguided diffusion at three seeds."""
    assert unknown("over it by 2.6 [0.8, 5.1], or −2.6 points [−5.1,\n−0.8]", rows) == []
    assert unknown("2.7 [0.8, 5.1], 2.6 [0.8, 5.2] and 1.00 behind [0.8, 5.1]", rows) != []
    assert len(unknown("2.7 [0.8, 5.1] and 2.6 [0.8, 5.2]", rows)) == 2


def test_the_rows_of_a_table_are_counted_by_what_they_say() -> None:
    """Those with the full data apart, and in how many the seeds there are would not tell one point."""
    sure = Difference("a", "b", "convnet", "top-1", 0.02, 3, 3, 3, 1.0, low=0.01, high=0.03, t_low=0.01, t_high=0.03,
                      tested_low=0.01, tested_high=0.03, holm=0.01, needed=2, needed_tested=3)  # fmt: skip
    alone = replace(sure, holm=0.2, needed_tested=4)
    here = replace(alone, tested_low=-0.01, needed_tested=None)
    unseen = replace(sure, low=-0.01, t_low=-0.01, tested_low=None, tested_high=None, needed=9, needed_tested=None)
    one = replace(unseen, low=None, high=None, units=1, pairs=1, needed=None)
    alike, whole = replace(one, units=2, pairs=2), replace(sure.turned(), a=FULL)
    assert counts.lines([sure, sure, alone, here, unseen, one, alike, whole]) == (
        "Of 7 pairs of sets: 2 better; 1 better taken alone; 1 better on these test images, taken alone; 1 cannot be"
        " told apart; 1 all pairs alike, so no spread was seen; 1 one pair of trainings each; 2 would take more seeds"
        " than there are to tell one point; 1 no number of seeds would tell by one point if other test images may"
        " differ. Of 1 pair with the full data: 1 better."
    )
    assert counts.lines([sure, replace(sure, student="resnet18")]) == ""


def test_a_piece_is_worth_what_the_set_with_it_has_more() -> None:
    """Whichever of the two leads, and by the difference, intervals and p that stand in the table of all pairs."""
    known = pages.entries()
    text = {name: pages.block(known[name]) for name in ("ddoq-cifar10", "ddoq-cifar10-pieces")}
    whole, pieces = (block.replace("\N{NO-BREAK SPACE}", " ") for block in text.values())
    name, without = "ddoq by points", "ddoq by points without weights"
    assert f"| {without} − {name} | 2.9 | [2.3, 3.5] | [2.0, 3.8] | 1.00 | 0.00015 | 10 |" in whole
    assert f"| {name} | {without} | −2.9 | [−3.5, −2.3] | [−3.8, −2.0] | 0.00015 | 10 | worse |" in pieces


def test_a_piece_of_a_row_that_is_none_is_refused() -> None:
    entry = replace(pages.entries()["ddoq-cifar10-pieces"], pieces={"weights": [["ddog", "d4m"]]})
    with pytest.raises(ValueError, match="no rows of the grid: ddog"):
        pages.block(entry)
