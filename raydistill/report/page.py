"""The report page: `render` fills the template page.html. The result is one file, without requests or scripts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import jinja2
from markupsafe import Markup

from raydistill.evaluation.cartography import HARD, INFORMATIVE
from raydistill.progress import noun
from raydistill.report import atoms, calls, cartography, classes, increments, lines, plots, text, trees, wording
from raydistill.report.contents import with_contents
from raydistill.report.data import ClassPanel, Curves, GuidanceTrace, Judgement, PanelImage, ReportData, StageCost
from raydistill.report.images import data_uri, display_copy
from raydistill.report.increments import ChoiceRow
from raydistill.report.scores import BOUNDS, ScoreRow
from raydistill.report.verdict import verdicts

MAX_PANELS = 50
MAX_ITEMS = 50
MAX_PAIRS = 1000
OPEN_ITEMS = 10
OPEN_CLASSES = 10
SMALL_ITEMS = 2
PIXELATED_BELOW = 64
IMAGE_BUDGET = 16 * 2**20
# What lies beside the page in its run directory.
BESIDE = (
    ("distilled/", "the set, as Parquet"),
    ("distilled/README.md", "its card"),
    ("config.yaml", "the whole configuration"),
    ("result.json", "the numbers of this page"),
    ("trainings.json", "every training"),
)


# Stages in the order of the pipeline; several sets take turns in some of them.
STAGES = (
    *("encode", "group", "means", "cluster", "embed", "teacher", "judge", "reference", "import", "plan", "sample"),
    *("increment", "weigh", "check", "measure", "label", "evaluate"),
)


@dataclass(frozen=True)
class _Picture:
    """An item as it is shown."""

    item: PanelImage
    image: str
    nearest: str | None


@dataclass(frozen=True)
class _Panel:
    """A class as it is shown: the first OPEN_ITEMS pairs, those behind a fold, and how many are left out.

    `by_name` and `by_accuracy` are its places in other orders than that of the data.
    """

    panel: ClassPanel
    open: tuple[_Picture, ...]
    folded: tuple[_Picture, ...]
    left_out: int
    scatter: Markup | None
    caption: str
    tree: Markup | None
    by_name: int
    by_accuracy: int


@dataclass(frozen=True)
class _Cost:
    """A stage's row: its share of the longest stage, 0..100, for the bar."""

    cost: StageCost
    bar: float


def render(data: ReportData) -> str:
    """The whole page as HTML text. Equal data give equal text."""
    panels, judged = data.panels[:MAX_PANELS], data.judgement
    limit = min(MAX_ITEMS, max(OPEN_ITEMS, MAX_PAIRS // max(1, len(panels))))
    compact = _image_bytes(panels, limit) > IMAGE_BUDGET
    encode = display_copy if compact else data_uri
    html = (
        environment()
        .get_template("page.html")
        .render(
            data=data,
            beside=BESIDE,
            facts=_facts(data),
            verdicts=verdicts(judged),
            students=_by_student(judged.scores),
            highest=_highest(judged),
            bounds=BOUNDS,
            length=wording.length,
            storage=wording.storage,
            labelled=any(s.stored and s.stored[1] for s in judged.scores),
            bounded=any(s.set in BOUNDS for s in judged.scores),
            measure=judged.measure,
            chance=judged.chance_of(judged.measure),
            accuracy=plots.accuracy(
                [s for rows in _by_student(judged.scores) for s in rows],
                judged.chance_of(judged.measure),
                judged.measure,
            ),
            panels=[_panel(p, n, a, encode, limit) for p, n, a in zip(panels, *_places(data, panels), strict=True)],
            sorts=_sorts(data, panels),
            open_classes=OPEN_CLASSES,
            small=all(len(p.items) <= SMALL_ITEMS for p in panels),
            pixelated=data.image_size < PIXELATED_BELOW,
            compact=compact,
            costs=_costs(data.costs),
            curves=[learning(c) for c in data.curves],
            classwise=[(c, classes.accuracy(c)) for c in data.classwise],
            max_rows=classes.MAX_ROWS,
            confusions=[(c, classes.confusion(c), classes.mistakes(c)) for c in data.confusions],
            embedding=classes.embedding(data.embedding) if data.embedding else "",
            colours=classes.colours(data.embedding.names) if data.embedding else [],
            guidance=[(g, _trace(g)) for g in data.guidance],
            parts=[(m, increments.heat(m)) for m in data.parts],
            score=_scores(data.choices),
            maps=[(m, cartography.draw(m, HARD, INFORMATIVE), cartography.legend(m)) for m in data.maps if m.main],
            kinds=atoms.KINDS,
            fall=atoms.draw(data.fall) if data.fall else "",
            hard=HARD,
            informative=INFORMATIVE,
            calls=[(c.title, calls.draw(c)) for c in data.calls],
            pairs_of_sets=_pairs_of_sets(data),
            total=text.duration(sum(c.seconds for c in data.costs if not c.reused)),
        )
    )
    return text.printable_lines(with_contents(html))


def learning(curves: Curves) -> tuple[str, Markup, Markup]:
    """A student, its learning curves, and their legend."""
    label = f"Test accuracy of {curves.student} over the training, for {', '.join(ln.name for ln in curves.lines)}."
    drawn = lines.chart(curves.lines, label, lambda v: f"{100 * v:.4g}", "image visits")
    return curves.student, drawn, lines.legend(curves.lines)


def _trace(g: GuidanceTrace) -> Markup:
    return lines.chart([g.line], f"{g.name} at each guided step: {g.meaning}", text.number, "step", falling=True)


def _scores(choices: Sequence[ChoiceRow]) -> tuple[Markup, Markup]:
    drawn = [c.score for c in choices]
    label = "S of the predicted images at each guided step, increment by increment."
    return lines.chart(drawn, label, text.number, "step", falling=True), lines.legend(drawn)


def _pairs_of_sets(data: ReportData) -> list[tuple[list[wording.DifferenceRow], bool]]:
    """Those with the run's own set, and the others behind a fold."""
    differences, name = data.judgement.differences, data.method
    of_run = [d for d in differences if name in (d.a, d.b)]
    tables = [(wording.rows(of_run), False), (wording.rows([d for d in differences if d not in of_run]), True)]
    return tables if differences else []


def _facts(data: ReportData) -> list[tuple[str, str]]:
    return [
        ("Method", data.method),
        ("Images per class", text.count(data.ipc)),
        ("Classes", text.count(data.classes)),
        ("Image size", f"{data.image_size} px"),
        _seed(data),
        *_counts(data),
        ("Compression", f"{text.number(data.real / data.images)} : 1" if data.images else "–"),
    ]


def _seed(data: ReportData) -> tuple[str, str]:
    many = data.judgement.generations
    return ("Seeds", f"{data.seed} to {data.seed + many - 1}") if many > 1 else ("Seed", str(data.seed))


def _counts(data: ReportData) -> list[tuple[str, str]]:
    """Real images a class, where classes differ."""
    low, high = (f(data.judgement.counts, default=0) for f in (min, max))
    return [("Real images a class", f"{text.count(low)} to {text.count(high)}")] if low < high else []


def _by_student(scores: tuple[ScoreRow, ...]) -> list[list[ScoreRow]]:
    """One list a student, in order of appearance; the distilled set first, the rest as they come."""
    students = dict.fromkeys(s.student for s in scores)
    return [sorted((s for s in scores if s.student == name), key=lambda s: not s.main) for name in students]


def _highest(judged: Judgement) -> list[ScoreRow]:
    """Of each student the distilled sets with the highest accuracy, as it is printed, by the measure that leads; none
    where there is one set."""
    marked: list[ScoreRow] = []
    for rows in _by_student(judged.scores):
        values = [(s, s.value(judged.measure)) for s in rows if s.set not in BOUNDS]
        known = [(s, text.percent(value)) for s, value in values if math.isfinite(value)]
        end = max(known, key=lambda k: float(k[1]))[1] if len(known) > 1 else ""
        marked += [s for s, printed in known if printed == end]
    return marked


def _places(data: ReportData, panels: Sequence[ClassPanel]) -> tuple[list[int], list[int]]:
    """Of each class its place by name, and by the accuracy of the first student on the run's own set, lowest first."""
    names = sorted(range(len(panels)), key=lambda i: panels[i].class_name)
    mean = _accuracies(data, panels)
    worst = sorted(range(len(panels)), key=lambda i: (mean[i], i))
    return [names.index(i) for i in range(len(panels))], [worst.index(i) for i in range(len(panels))]


def _accuracies(data: ReportData, panels: Sequence[ClassPanel]) -> list[float]:
    """One a class; all the same where nothing was trained."""
    series = next((s for c in data.classwise for s in c.sets if s.main), None)
    return [0.0] * len(panels) if series is None else [float(series.mean[i]) for i in range(len(panels))]


def _sorts(data: ReportData, panels: Sequence[ClassPanel]) -> list[tuple[str, str]]:
    """Orders of the classes that differ, by the variable that has a class's place in them, and what they are called."""
    by_name, by_accuracy = _places(data, panels)
    orders = [("--name", "by name", by_name), ("--worst", "least accurate first", by_accuracy)]
    return [(variable, label) for variable, label, at in orders if at != list(range(len(panels)))]


def _panel(panel: ClassPanel, by_name: int, by_accuracy: int, encode: Callable[[bytes], str], limit: int) -> _Panel:
    shown = tuple(_Picture(i, encode(i.image), encode(i.nearest) if i.nearest else None) for i in panel.items[:limit])
    projection = panel.projection
    drawn = None
    if projection is not None and len(projection.real) + len(projection.syntheses):
        drawn = plots.scatter(projection, panel.items, panel.class_name)
    return _Panel(
        panel,
        shown[:OPEN_ITEMS],
        shown[OPEN_ITEMS:],
        len(panel.items) - len(shown),
        drawn,
        _caption(panel) if drawn else "",
        trees.draw(panel.tree, panel.class_name) if panel.tree else None,
        by_name,
        by_accuracy,
    )


def _caption(panel: ClassPanel) -> str:
    projection = panel.projection
    if projection is None:
        return ""
    share = f"Axes carry {text.percent(projection.explained)}\N{NO-BREAK SPACE}% of the variance"
    if projection.explained <= 0:
        share = "The real latents have no variance"
    shown = min(len(projection.real), plots.MAX_POINTS)
    if shown < panel.real_count:
        return f"{share}; {text.count(shown)} of {text.count(panel.real_count)} real images drawn."
    return f"{share}."


def _costs(costs: tuple[StageCost, ...]) -> list[_Cost]:
    costs = tuple(sorted(costs, key=_turn))
    longest = max((c.seconds for c in costs if not c.reused), default=0.0)
    return [_Cost(c, 100 * c.seconds / longest if longest > 0 and not c.reused else 0.0) for c in costs]


def _turn(cost: StageCost) -> tuple[int, str]:
    """Where a stage stands: `sample mgd3` where sampling does, one that is not known behind the others."""
    name = cost.stage.split(" ")[0]
    return STAGES.index(name) if name in STAGES else len(STAGES), cost.stage


def _image_bytes(panels: tuple[ClassPanel, ...], limit: int) -> int:
    return sum(len(i.image) + len(i.nearest or b"") for p in panels for i in p.items[:limit])


@cache
def environment() -> jinja2.Environment:
    """The templates of this package: autoescaped, with the words of report/text.py."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("raydistill.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(count=text.count, percent=text.percent, number=text.number, duration=text.duration)
    env.globals.update(spread=text.spread, rate=text.rate, plural=text.plural, noun=noun)
    return env
