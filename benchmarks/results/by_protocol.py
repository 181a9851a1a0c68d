"""What a change of protocol does to the same sets: differences side by side, and how far it moves a set.

Two protocols are compared by the same student where both have it, by their own students otherwise. Trainings are paired
by generation and training seed (docs/statistics.md), between two protocols of one set as between two sets of one
protocol. A spread is of the two that lie farthest apart, chosen from what was seen: where all lie close together it is
rather too large than too small.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from grids import markdown
from intervals import Accuracy, accuracy

from raydistill.report import wording
from raydistill.report.data import Difference, Measure
from raydistill.report.text import plural
from raydistill.results import differences
from raydistill.results.pairing import TrainingOutcome
from raydistill.tune.cells import WHOLE

REFERENCE = "random"
Pairs = Mapping[tuple[str, str], Difference]


@dataclass(frozen=True)
class Column:
    """The trainings of every set under one protocol by one student; `head` is its name in a table. Sets are compared by
    `measure`, the same in all columns."""

    head: str
    protocol: str
    student: str
    sets: Mapping[str, Sequence[TrainingOutcome]]
    measure: Measure = "top-1"

    def accuracy(self, name: str) -> Accuracy:
        """Of one of the sets."""
        return accuracy(self.sets[name], self.measure)


@dataclass(frozen=True)
class Spread:
    """Of one set: under `highest` it is ahead of itself under `lowest` by `difference`."""

    name: str
    highest: str
    lowest: str
    difference: Difference


def pairs(column: Column) -> dict[tuple[str, str], Difference]:
    """Every difference of two sets, by their names both ways round, with its p after Holm over all of them."""
    every = differences.table([o for some in column.sets.values() for o in some], [column.measure])
    return {(d.a, d.b): d for one in every for d in (one, one.turned())}


def rows(columns: Sequence[Column]) -> list[str]:
    """The names of all sets, the full data among them."""
    return list(dict.fromkeys(n for c in columns for n in c.sets))


def distilled(names: Iterable[str]) -> list[str]:
    """Those that are no full data."""
    return [n for n in names if n not in WHOLE]


def shown_pairs(columns: Sequence[Column], of_columns: Sequence[Pairs]) -> list[tuple[str, str]]:
    """Each set and the full data against random, the best two sets of each protocol, and those whose order turns."""
    names = rows(columns)
    chosen = [(n, REFERENCE) for n in names if n != REFERENCE and REFERENCE in names]
    best = (sorted(distilled(c.sets), key=lambda n: -c.accuracy(n).mean)[:2] for c in columns)
    chosen += [(two[0], two[1]) for two in best if len(two) == 2]
    chosen += turns(of_columns, distilled(names))[1]
    once: dict[frozenset[str], tuple[str, str]] = {}
    for pair in chosen:
        once.setdefault(frozenset(pair), pair)
    return list(once.values())


def compared(columns: Sequence[Column]) -> Iterator[tuple[Column, Column]]:
    """The columns between which only the protocol differs, or their students where two protocols share none."""
    students: dict[str, set[str]] = {}
    for c in columns:
        students.setdefault(c.protocol, set()).add(c.student)
    for a, b in combinations(columns, 2):
        shared = students[a.protocol] & students[b.protocol]
        if a.protocol != b.protocol and (a.student == b.student or not shared):
            yield a, b


def spread(columns: Sequence[Column], name: str) -> Spread | None:
    """The two protocols between which a set moves most; None where no two have trainings of it with the same seeds."""
    between = []
    for a, b in compared(columns):
        if name in a.sets and name in b.sets and (d := differences.difference(a.sets[name], b.sets[name], a.measure)):
            between.append(Spread(name, a.head, b.head, d) if d.mean >= 0 else Spread(name, b.head, a.head, d.turned()))
    return max(between, key=lambda s: s.difference.mean, default=None)


def farthest(of_column: Pairs, names: Sequence[str]) -> Difference | None:
    """The two of these sets that lie farthest apart, the larger one first."""
    return max((d for (a, b), d in of_column.items() if a in names and b in names), key=lambda d: d.mean, default=None)


def turns(of_columns: Sequence[Pairs], names: Sequence[str], holm: bool = False) -> tuple[int, list[tuple[str, str]]]:
    """How many pairs of sets are told apart under two protocols or more, and those of them whose order is not one.

    With `holm` only what is told apart among all pairs of its protocol counts.
    """
    twice, turned = 0, []
    for a, b in combinations(names, 2):
        known = [of_column[a, b] for of_column in of_columns if (a, b) in of_column]
        signs = [d.sign for d in known if d.sign and (not holm or (d.holm is not None and d.holm < wording.HOLDS))]
        twice += len(signs) > 1
        turned += [(a, b)] if {-1, 1} <= set(signs) else []
    return twice, turned


def text(columns: Sequence[Column]) -> str:
    """Markdown: accuracies, differences by protocol, the spread of each set, and what that says."""
    of_columns = [pairs(c) for c in columns]
    spreads = [s for n in rows(columns) if (s := spread(columns, n))]
    parts = [
        _accuracies(columns),
        _differences(columns, of_columns),
        _spreads(spreads),
        _summary(columns, of_columns, spreads),
    ]
    return "\n\n".join(filter(None, parts))


def _accuracies(columns: Sequence[Column]) -> str:
    lines = [[n, *(" ".join(c.accuracy(n).cells[:2]) if n in c.sets else "–" for c in columns)] for n in rows(columns)]
    return markdown(["set", *(c.head for c in columns)], lines)


def _differences(columns: Sequence[Column], of_columns: Sequence[Pairs]) -> str:
    lines = [[f"{a} − {b}", *(_cell(p.get((a, b))) for p in of_columns)] for a, b in shown_pairs(columns, of_columns)]
    about = "Differences in points [95 % over seeds], with the error of the test images, and from how many pairs:"
    return f"{about}\n\n{markdown(['sets', *(c.head for c in columns)], lines)}" if lines else ""


def _cell(d: Difference | None) -> str:
    """'2.1 [0.5, 3.7], images [0.2, 4.0], 3 pairs'; what is not known is left out."""
    if d is None:
        return "–"
    images = "" if d.tested_low is None else f", images {wording.interval(d.tested_low, d.tested_high)}"
    return f"{_mean(d)}{images}, {_count(d)}"


def _mean(d: Difference) -> str:
    return wording.points(d.mean) + ("" if d.low is None else f" {wording.interval(d.low, d.high)}")


def _count(d: Difference) -> str:
    return f"{wording.how_many(d)} {'pair' if d.pairs == 1 else 'pairs'}"


def _spreads(spreads: Sequence[Spread]) -> str:
    lines = [
        [
            *(s.name, s.highest, s.lowest, wording.points(s.difference.mean)),
            wording.interval(s.difference.low, s.difference.high),
            wording.interval(s.difference.tested_low, s.difference.tested_high),
            _count(s.difference).split(" pair")[0],
        ]
        for s in spreads
    ]
    head = ["set", "highest under", "lowest under", "apart", "95 %, seeds", "and images", "pairs"]
    about = "How far apart the protocols put one set, in points, paired by seeds:"
    return f"{about}\n\n{markdown(head, lines)}" if lines else ""


def _summary(columns: Sequence[Column], of_columns: Sequence[Pairs], spreads: Sequence[Spread]) -> str:
    names = distilled(rows(columns))
    moved = [s.difference.mean for s in spreads if s.name in names]
    widest = [
        (c.head, d) for c, of_column in zip(columns, of_columns, strict=True) if (d := farthest(of_column, names))
    ]
    if not moved or not widest:
        return ""
    least, most, average = (wording.points(f(moved)) for f in (min, max, statistics.mean))
    distances = ", ".join(f"{_mean(d)} (`{head}`: {d.a} − {d.b})" for head, d in widest)
    (twice, turned), (held, held_turned) = (turns(of_columns, names, holm) for holm in (False, True))
    all_pairs = plural(len(names) * (len(names) - 1) // 2, "pair")
    order = f": {', '.join(f'{a} and {b}' for a, b in turned)}" if turned else ""
    return (
        f"A change of protocol moves a set by {least} to {most} points, {average} on average; under one protocol the "
        f"sets lie so many points apart at most: {distances}. Of {all_pairs} of sets {twice} are told apart over seeds "
        f"under at least two protocols, each taken alone, and the order turns in {len(turned)} of them{order}; after "
        f"Holm it is {held} and {len(held_turned)}. The full data are not counted here."
    )
