"""How many of a table's differences carry: the lines below it that a claim about all of them can rely on."""

from __future__ import annotations

from collections.abc import Sequence

from raydistill.report import wording
from raydistill.report.data import Difference
from raydistill.report.text import count, plural
from raydistill.tune.cells import WHOLE

HERE, ALONE = "on these test images", "taken alone"
KINDS = (
    "better",
    f"better {ALONE}",
    f"better {HERE}",
    f"better {HERE}, {ALONE}",
    wording.OPEN,
    "without a difference",
    wording.ALIKE,
    "one pair of trainings each",
)


def kind(d: Difference) -> str:
    """What its row says, without the numbers."""
    if d.low is None:
        return wording.ALIKE if d.units > 1 else KINDS[-1]
    if not d.sign:
        return wording.OPEN if wording.verdict(d) == wording.OPEN else "without a difference"
    limits = ", ".join(limit for limit in (HERE, ALONE) if limit in wording.verdict(d))
    return f"better {limits}".strip()


def counted(differences: Sequence[Difference], of: str) -> str:
    """'Of 78 pairs of sets: 59 better; ...; 51 would take more seeds than there are to tell one point; ...'"""
    kinds = [kind(d) for d in differences]
    said = [f"{count(n)} {word}" for word in KINDS if (n := kinds.count(word))]
    never = sum(d.tested_low is not None and d.needed_tested is None for d in differences)
    needed = [d.needed if d.tested_low is None else d.needed_tested for d in differences]
    short = sum(seeds is not None and seeds > d.units for seeds, d in zip(needed, differences, strict=True))
    said += [f"{count(short)} would take more seeds than there are to tell one point"] if short else []
    if never:
        said.append(f"{count(never)} no number of seeds would tell by one point if other test images may differ")
    return f"Of {plural(len(kinds), 'pair')} {of}: {'; '.join(said)}."


def lines(differences: Sequence[Difference]) -> str:
    """One of the pairs of sets, and one of those with the full data. Empty where several students share a table."""
    if len({d.student for d in differences}) > 1:
        return ""
    whole = [d for d in differences if d.a in WHOLE or d.b in WHOLE]
    sets = [d for d in differences if d not in whole]
    return " ".join(counted(some, of) for some, of in ((sets, "of sets"), (whole, "with the full data")) if some)
