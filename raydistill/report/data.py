"""What the report is made of: plain, frozen data that the pipeline fills in. Nothing here reads a file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from raydistill.report.atoms import AtomCurve, AtomDistances
from raydistill.report.cartography import DataMap
from raydistill.report.increments import ChoiceRow, GrowthRow, PartMatrix
from raydistill.report.line import Line
from raydistill.report.metric import MetricRow
from raydistill.report.scores import Measure, ScoreRow
from raydistill.report.trees import ClassTree


@dataclass(frozen=True)
class PanelImage:
    """One slot: its synthesis and the real image of its class that is nearest in latent space.

    `prototype_id` is the row of its prototype in `Projection.prototypes`, negative if it has none.
    """

    slot: int
    image: bytes
    weight: float
    prototype_id: int
    nearest: bytes | None
    nearest_id: str
    distance: float


@dataclass(frozen=True)
class Projection:
    """A class's latents on two axes: `real` (N, 2), `prototypes` (P, 2), `syntheses` (S, 2) in the order of the items.

    `explained` is the share of the real latents' variance that the two axes carry, 0 if they have none.
    """

    real: np.ndarray
    prototypes: np.ndarray
    syntheses: np.ndarray
    explained: float


@dataclass(frozen=True)
class ClassPanel:
    """One class of the grid; `real_count` is the number of its real training images."""

    class_id: str
    class_name: str
    real_count: int
    items: tuple[PanelImage, ...]
    projection: Projection | None
    tree: ClassTree | None = None


@dataclass(frozen=True)
class StageCost:
    """Wall time of a stage and the units it made. `reused` = found finished, not computed in this run."""

    stage: str
    seconds: float
    units: int
    unit: str
    reused: bool

    @property
    def rate(self) -> float | None:
        """Units a second; None where it would mean nothing."""
        return self.units / self.seconds if self.seconds > 0 and self.units > 0 and not self.reused else None


@dataclass(frozen=True)
class Difference:
    """How much more the set `a` teaches a student than `b`: fractions, from paired trainings on the same test images.

    `units` of the `pairs` are independent: generation seeds if `generations` > 1, otherwise trainings. `low` and `high`
    are the 95 % interval over them, None for a single pair; `tested_low` and `tested_high` also hold the error of the
    test images, None where nobody kept the answers. `t_low` and `t_high` are the check by paired t, whose p is `p`;
    `holm` is p among all pairs of the table. Of a single pair of trainings the interval is of the test images alone,
    and p is McNemar's. Pairs that are all alike by unknown test images have no interval and no p. `ahead` is P(A > B),
    `needed` how many units would tell one point from nothing on these test images, `needed_tested` on others like them.
    """

    a: str
    b: str
    student: str
    measure: Measure
    mean: float
    pairs: int
    units: int
    generations: int
    ahead: float
    low: float | None = None
    high: float | None = None
    t_low: float | None = None
    t_high: float | None = None
    tested_low: float | None = None
    tested_high: float | None = None
    p: float | None = None
    holm: float | None = None
    needed: int | None = None
    needed_tested: int | None = None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval over seeds, and its check, say that `a` is better or worse; 0 otherwise."""
        side = _side(self.low, self.high)
        return side if self.t_low is None or side == _side(self.t_low, self.t_high) else 0

    @property
    def tested_sign(self) -> int:
        """The same with the error of the test images; 0 where it is not known."""
        return _side(self.tested_low, self.tested_high)

    def turned(self) -> Difference:
        """`b` minus `a`."""

        def minus(value: float | None) -> float | None:
            return None if value is None else -value

        return replace(
            self,
            a=self.b,
            b=self.a,
            mean=-self.mean,
            ahead=1 - self.ahead,
            low=minus(self.high),
            high=minus(self.low),
            t_low=minus(self.t_high),
            t_high=minus(self.t_low),
            tested_low=minus(self.tested_high),
            tested_high=minus(self.tested_low),
        )


def _side(low: float | None, high: float | None) -> int:
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)


@dataclass(frozen=True)
class Judgement:
    """What was measured of all sets, and what can be told of it. `chance` is top-1 of the best student that looks at
    nothing; `measure` is what sets are compared by, over classes where these are uneven. `counts` and `tested` are the
    real training images and the test images of each class; `generations` the seeds by which each set was drawn.
    """

    scores: tuple[ScoreRow, ...]
    chance: float
    differences: tuple[Difference, ...] = ()
    measure: Measure = "top-1"
    generations: int = 1
    counts: tuple[int, ...] = ()
    tested: tuple[int, ...] = ()

    def chance_of(self, measure: Measure) -> float:
        """Over classes it is 1 / classes that were tested, whatever their sizes."""
        classes = sum(n > 0 for n in self.tested)
        return 1 / classes if measure == "balanced" and classes else self.chance


@dataclass(frozen=True)
class Curves:
    """Test accuracy over image visits, a line a set, of one student."""

    student: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class ClassSeries:
    """Accuracy of each class (K,), mean over training seeds, when trained on one set."""

    name: str
    mean: np.ndarray
    main: bool


@dataclass(frozen=True)
class ClassScores:
    """`counts` are the real training images and the test images of each class."""

    student: str
    names: tuple[str, ...]
    sets: tuple[ClassSeries, ...]
    counts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Confusion:
    """share (K, K): rows are true classes and sum to 1, columns what they are taken for; over all training seeds."""

    student: str
    set: str
    names: tuple[str, ...]
    share: np.ndarray


@dataclass(frozen=True)
class Embedding:
    """Real images and syntheses of all classes in one plane: points (N, 2), their class indices; `how` it was made."""

    real: np.ndarray
    real_class: np.ndarray
    syntheses: np.ndarray
    syntheses_class: np.ndarray
    names: tuple[str, ...]
    how: str


@dataclass(frozen=True)
class GuidanceTrace:
    """What guidance did, mean and std over slots at each step index; `meaning` says what the number is."""

    name: str
    meaning: str
    line: Line


@dataclass(frozen=True)
class GuidanceEnd:
    """Where samples ended, mean and std over slots; `meaning` says what the number is."""

    name: str
    meaning: str
    mean: float
    std: float


@dataclass(frozen=True)
class CallPoint:
    """A set: calls > 0 an image; accuracy or coverage in [0, 1] with its std (0 = none). Points of one `line` are
    joined; `main` marks the distilled set of this report."""

    name: str
    line: str
    calls: float
    mean: float
    std: float
    main: bool


@dataclass(frozen=True)
class CallChart:
    """What sets are worth over what an image costs."""

    title: str
    points: tuple[CallPoint, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything on the page. The totals are needed only if `panels` leaves classes out; None = count the panels."""

    title: str
    method: str
    ipc: int
    seed: int
    image_size: int
    panels: tuple[ClassPanel, ...]
    costs: tuple[StageCost, ...]
    judgement: Judgement
    config_yaml: str
    command: str
    notes: tuple[str, ...]
    protocol: str
    total_classes: int | None = None
    total_real: int | None = None
    total_images: int | None = None
    curves: tuple[Curves, ...] = ()
    classwise: tuple[ClassScores, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    embedding: Embedding | None = None
    guidance: tuple[GuidanceTrace, ...] = ()
    ends: tuple[GuidanceEnd, ...] = ()
    metric_sets: tuple[str, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    calls: tuple[CallChart, ...] = ()
    parts: tuple[PartMatrix, ...] = ()
    growth: tuple[GrowthRow, ...] = ()
    choices: tuple[ChoiceRow, ...] = ()
    maps: tuple[DataMap, ...] = ()
    atoms: tuple[AtomDistances, ...] = ()
    fall: AtomCurve | None = None

    @property
    def classes(self) -> int:
        return len(self.panels) if self.total_classes is None else self.total_classes

    @property
    def real(self) -> int:
        return sum(p.real_count for p in self.panels) if self.total_real is None else self.total_real

    @property
    def images(self) -> int:
        return sum(len(p.items) for p in self.panels) if self.total_images is None else self.total_images
