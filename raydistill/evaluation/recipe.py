"""A protocol resolved: every value that decides how a student is trained and tested, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from raydistill import registry
from raydistill.config import EvaluateConfig, ProtocolConfig
from raydistill.errors import BadInput
from raydistill.evaluation.dsa_strategy import IDC, parts_of
from raydistill.evaluation.zca import LARGEST

# What stood for them before.
LATER = {"weighting": "loss", "shift": 0.0, "dsa": False, "statistics": "imagenet", "zca": False}
STUDENTS = ("convnet",)  # of a protocol that names none
# Keys of the configuration that are no plain override.
OWN = ("name", "budget", "visits", "image_size", "epochs", "soft_labels")


@dataclass(frozen=True)
class Setting:
    """What a protocol's values may depend on; `batch` and `patches` if the configuration gives them."""

    ipc: int
    classes: int
    image_size: int
    student: str
    batch: int | None = None
    patches: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How one student is trained. Lengths count in epochs of the distilled set and in image visits.

    Augmentation in this order: patches x patches shuffle (1 = off); random resized crop of at least `crop_scale` of the
    area (1 = none); flip; a shift by up to `shift` of a side, black beyond the border; brightness, contrast and
    saturation jitter in random order; PCA lighting; `dsa`, a strategy (dsa_strategy.py); CutMix for a share
    `cutmix` of the batches, its image's share drawn from Beta(beta, beta). Colours are centred and scaled by the
    `statistics` of a data set; with `zca` all images are whitened first (zca.py), and not centred or scaled.
    `labels`: "hard", "teacher" (every mixed batch on the fly) or "stored" (per image and view; `views` of each).
    `weighting`: a weight multiplies the loss of its image, or "sampling": images are drawn in proportion to it.
    Tested `evaluations` times at even distances after the share `tested_from` of the training; a test image is cut to
    the middle `test_crop` of its side. `bn_pass`: one more forward pass a step, which moves BatchNorm statistics alone;
    it sees the mixed batch, because RDED's script mixes in place.
    """

    protocol: str
    epochs: int
    batch: int
    optimiser: Literal["sgd", "adamw", "adam"]
    lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["multistep", "half_cosine", "cosine", "middle"]
    crop_scale: float
    flip: bool
    jitter: float = 0.0
    lighting: float = 0.0
    patches: int = 1
    cutmix: float = 1.0
    beta: float = 1.0
    labels: Literal["hard", "teacher", "stored"] = "hard"
    temperature: float = 1.0
    views: int = 0
    bn_pass: bool = False
    evaluations: int = 100
    tested_from: float = 0.0
    test_crop: float = 1.0
    image_size: int = 224
    visits: int = 0
    weighting: Literal["loss", "sampling"] = "loss"
    shift: float = 0.0
    dsa: bool | str = False
    statistics: Literal["imagenet", "cifar", "none"] = "imagenet"
    zca: bool = False

    @property
    def soft(self) -> bool:
        return self.labels != "hard"

    def tree(self) -> dict[str, Any]:
        """All values; those that came later where they are not what was there before."""
        return {k: v for k, v in asdict(self).items() if k not in LATER or v != LATER[k]}


Build = Callable[[Setting], Recipe]


def trains(*students: str) -> Callable[[Build], Build]:
    """Says which students a protocol trains where `evaluate.students` is null."""

    def say(build: Build) -> Build:
        vars(build)["students"] = students
        return build

    return say


def students_of(evaluate: EvaluateConfig) -> list[str]:
    """The students that are named, or else those that the protocol's papers train. Raises BadInput."""
    build = registry.get("protocol", evaluate.protocol.name)
    return evaluate.students or list(getattr(build, "students", STUDENTS))


def resolve(config: ProtocolConfig, setting: Setting) -> Recipe:
    """The protocol's recipe with the budget and the overrides of the configuration.

    Raises BadInput for an unknown protocol, a setting that its table does not hold, soft labels of a hard one, or more
    patches than pixels.
    """
    setting = replace(setting, batch=config.batch, patches=config.patches)
    base = _storing(registry.get("protocol", config.name)(setting), config)
    epochs = config.epochs if config.epochs is not None else max(1, round(base.epochs * config.budget))
    images = setting.ipc * setting.classes
    visits = config.visits if config.visits is not None else epochs * images
    if config.visits is not None:
        epochs = -(-visits // images)
    resolved = replace(base, **overrides(config), epochs=epochs, visits=visits, image_size=config.image_size)
    if resolved.patches > config.image_size:
        raise BadInput(
            f"evaluate.protocol.patches={resolved.patches} is more than the pixels of a side; lower it to "
            f"evaluate.protocol.image_size={config.image_size} or less"
        )
    if resolved.dsa is not False:
        resolved = replace(resolved, dsa=_strategy(resolved.dsa))
    if resolved.zca:
        resolved = _whitening(resolved)
    return replace(resolved, views=min(resolved.views, epochs) if resolved.labels == "stored" else 0)


def _strategy(dsa: bool | str) -> str:
    strategy = IDC if dsa is True else str(dsa)
    try:
        parts_of(strategy)
        return strategy
    except ValueError as e:
        raise BadInput(f"evaluate.protocol.dsa: {e}; true is IDC's") from None


def _whitening(recipe: Recipe) -> Recipe:
    """The recipe on whitened images. Raises BadInput for what cannot be whitened, or asked of a teacher."""
    key = "evaluate.protocol.zca=true"
    if recipe.soft:
        raise BadInput(f"{key}: a teacher does not know whitened images; leave it out, or choose hard labels (dsa)")
    if recipe.image_size > LARGEST:
        raise BadInput(f"{key} whitens images of at most {LARGEST} px; lower evaluate.protocol.image_size")
    return replace(recipe, statistics="none")


def _storing(base: Recipe, config: ProtocolConfig) -> Recipe:
    """The protocol's recipe with so many stored labels an image as `soft_labels` says, if it says anything."""
    if config.soft_labels is None:
        return base
    key = f"evaluate.protocol.soft_labels={config.soft_labels}"
    if not base.soft:
        raise BadInput(f"{key}: protocol {config.name} trains on hard labels; leave it out, or choose a soft one (rd3)")
    if config.views is not None:
        raise BadInput(f"{key} and evaluate.protocol.views={config.views} both say how many labels; leave out one")
    return replace(base, labels="stored", views=config.soft_labels)


def overrides(config: ProtocolConfig) -> dict[str, Any]:
    """What the configuration sets apart from the protocol, its length and the image size."""
    names = {f.name for f in fields(Recipe)}
    return {k: v for k, v in config.model_dump().items() if k in names and k not in OWN and v is not None}


def title(config: ProtocolConfig, labels: str = "stored") -> str:
    """One line that names the protocol and everything in which it departs from the field's: `hard x0.1, 64 px`.

    `labels` are the recipe's: what nothing but other labels read is no departure.
    """
    unread = {"stored": (), "teacher": ("views",), "hard": ("views", "temperature")}[labels]
    parts = [config.name + (f" x{config.budget:g}" if config.budget != 1 else "")]
    if config.epochs is not None:
        parts.append(f"{config.epochs} epochs")
    if config.visits is not None:
        parts[0] = config.name
        parts.append(f"{config.visits} visits")
    parts.append(f"{config.image_size} px")
    departures = {k: v for k, v in overrides(config).items() if k not in unread}
    if config.soft_labels is not None:
        parts.append(f"soft_labels={config.soft_labels}")
    parts += [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in departures.items()]
    return ", ".join(parts)


def describe(recipe: Recipe) -> str:
    """The recipe for readers, in one sentence."""
    r = recipe
    steps = {
        "multistep": "x 0.2 at 2/3 and 5/6",
        "half_cosine": "half a cosine",
        "cosine": "cosine to 0",
        "middle": "x 0.1 behind the middle",
    }[r.schedule]
    labels = {
        "hard": "hard labels",
        "teacher": f"a teacher's labels of every batch, T = {r.temperature:g}",
        "stored": f"stored soft labels of {r.views} views, T = {r.temperature:g}",
    }[r.labels]
    seen = [
        f"{r.patches} x {r.patches} patches shuffled" if r.patches > 1 else "",
        f"crops from {r.crop_scale:g} of the area" if r.crop_scale < 1 else "",
        "flips" if r.flip else "",
        f"shifts by up to {r.shift:g} of a side" if r.shift else "",
        f"colour jitter {r.jitter:g}" if r.jitter else "",
        f"PCA lighting {r.lighting:g}" if r.lighting else "",
        "DSA as IDC" if r.dsa == IDC else f"DSA, {r.dsa}" if r.dsa else "",
        f"CutMix {r.cutmix:g}" if r.cutmix else "",
    ]
    kind = {"sgd": "SGD", "adamw": "AdamW", "adam": "Adam"}[r.optimiser]
    drawn = " drawn in proportion to weights" if r.weighting == "sampling" else ""
    return (
        f"{labels}, {r.visits:,} image visits{drawn} in batches of {r.batch}, {kind} {r.lr:g} ({steps}), "
        f"weight decay {r.weight_decay:g}; {', '.join(filter(None, seen)) or 'no augmentation'}"
        + {"imagenet": "", "cifar": "; CIFAR's mean and deviation", "none": "; ZCA-whitened"}[r.statistics]
    )
